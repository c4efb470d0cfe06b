package settings_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/settings"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// random returns values for some keys, among them ones that are not registered.
func random(r *rand.Rand) settings.Values {
	out := settings.Values{}
	for _, s := range append(settings.Registry(), settings.Setting{Key: "unheard_of"}, settings.Setting{Key: settings.Reserved}) {
		if r.IntN(2) == 0 {
			continue
		}
		out[s.Key] = settings.Value{Type: s.Type, Bool: r.IntN(2) == 0, Text: fmt.Sprint(r.IntN(3))}
	}
	return out
}

// TestMergeIsTheDocumentedOne states the merge as its document does, for many values.
func TestMergeIsTheDocumentedOne(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		global, own := random(r), random(r)
		got := settings.Merge(global, own)
		if len(got) != len(settings.Registry()) {
			t.Fatalf("%d settings hold of %d registered ones", len(got), len(settings.Registry()))
		}
		for i, e := range got {
			if e.Key != settings.Registry()[i].Key {
				t.Fatalf("setting %d is %s", i, e.Key)
			}
			forAll, isGlobal := global[e.Key]
			forOne, isOwn := own[e.Key]
			switch e.Scope {
			case settings.ScopeGlobal:
				if !isGlobal || e.Value != forAll {
					t.Fatalf("%+v of %+v and %+v", e, global, own)
				}
			case settings.ScopeSandbox:
				if isGlobal || !isOwn || e.Value != forOne {
					t.Fatalf("%+v of %+v and %+v", e, global, own)
				}
			default:
				if isGlobal || isOwn || e.Value != (settings.Value{}) {
					t.Fatalf("%+v of %+v and %+v", e, global, own)
				}
			}
		}
	}
}

// TestValuesAreNotSharedWithTheirCopies checks that what readers hold does not change under them.
func TestValuesAreNotSharedWithTheirCopies(t *testing.T) {
	t.Parallel()
	yes := settings.Value{Type: settings.Bool, Bool: true}
	var none settings.Values
	one, changed := none.With("a", yes)
	if !changed || len(none) != 0 || one["a"] != yes {
		t.Errorf("%v and %v, %t", none, one, changed)
	}
	if same, changed := one.With("a", yes); changed || len(same) != 1 {
		t.Errorf("the same value changed %v", same)
	}
	two, _ := one.With("b", yes)
	left, existed := two.Without("a")
	if !existed || len(one) != 1 || len(two) != 2 || len(left) != 1 {
		t.Errorf("%v, %v, %v, %t", one, two, left, existed)
	}
	if _, existed := left.Without("a"); existed {
		t.Error("a value went twice")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	truth := settings.Value{Type: settings.Bool, Bool: true}
	text := func(s string) settings.Value { return settings.Value{Type: settings.String, Text: s} }
	for _, tc := range []struct {
		key   string
		value settings.Value
		want  string
	}{
		{"providers_v2_enabled", truth, ""},
		{"agent_policy_proposals_enabled", settings.Value{Type: settings.Bool}, ""},
		{"proposal_approval_mode", text("auto"), ""},
		{"proposal_approval_mode", text("AUTO"), "setting 'proposal_approval_mode' expects one of [manual, auto]; got 'AUTO'"},
		{"proposal_approval_mode", text(strings.Repeat("é", 1000)), "expects one of [manual, auto]; got 'é"},
		{"proposal_approval_mode", truth, "setting 'proposal_approval_mode' expects string value"},
		{"ocsf_json_enabled", settings.Value{Type: settings.Int}, "setting 'ocsf_json_enabled' expects bool value"},
		{"ocsf_json_enabled", settings.Value{Type: settings.Bytes}, "bytes are not supported for this key"},
		{"ocsf_json_enabled", settings.Value{}, "setting_value.value is required"},
		{"OCSF_JSON_ENABLED", truth, "unknown setting key 'OCSF_JSON_ENABLED'. Allowed keys: providers_v2_enabled, ocsf_json_enabled, agent_policy_proposals_enabled, proposal_approval_mode"},
		{"policy", truth, "unknown setting key 'policy'"},
		{strings.Repeat("k", 256), truth, "unknown setting key"},
		{strings.Repeat("k", 257), truth, "setting_key exceeds maximum length (257 > 256)"},
	} {
		err := settings.Check(tc.key, tc.value)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s %+v: %v", tc.key, tc.value, err)
			}
			continue
		}
		f := fault.From(err)
		if err == nil || f.Kind != fault.InvalidArgument || f.Reason == "" || f.Next == "" || !strings.Contains(f.Message, tc.want) || len(f.Message) > 1024 {
			t.Errorf("%s %+v: %v, want %q", tc.key, tc.value, err, tc.want)
		}
	}
}

// only lets one subject administer the gateway.
type only string

func (o only) PlatformAdmin(p *principal.Principal) error {
	if p.Subject == string(o) {
		return nil
	}
	return fault.New(fault.PermissionDenied, "NO", "no")
}

func as(subject string) context.Context {
	return principal.With(context.Background(), &principal.Principal{Kind: principal.User, Subject: subject})
}

func open(t *testing.T, path string) (*settings.Service, *store.Store) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return settings.New(st, only("root")), st
}

// TestGlobalValuesSurviveARestart keeps the database and opens it anew.
func TestGlobalValuesSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, st := open(t, path)
	if g, err := s.Global(); err != nil || g.Revision != 0 || len(g.Values) != 0 {
		t.Errorf("at first: %+v, %v", g, err)
	}
	if _, err := s.Set(as("root"), "ocsf_json_enabled", settings.Value{Type: settings.Bool, Bool: true}); err != nil {
		t.Fatal(err)
	}
	set, err := s.SetPolicy(as("root"), &sandboxpb.SandboxPolicy{Version: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = open(t, path)
	g, err := s.Global()
	if err != nil || g.Revision != 2 || !g.Values["ocsf_json_enabled"].Bool || g.Newest != 1 || !g.InForce {
		t.Errorf("afterwards: %+v, %v", g, err)
	}
	r, err := s.Policy()
	if err != nil || r.Hash != set.Hash || r.State != policy.Loaded || r.LoadedAt.IsZero() || r.CreatedAt.IsZero() {
		t.Errorf("the policy: %+v, %v", r, err)
	}
	if again, err := s.SetPolicy(as("root"), &sandboxpb.SandboxPolicy{Version: 1}); err != nil || again.Version != 1 {
		t.Errorf("the same policy: %+v, %v", again, err)
	}
}

// TestOnlyPlatformAdminsDecideForAll asks everything as somebody else, and as nobody.
func TestOnlyPlatformAdminsDecideForAll(t *testing.T) {
	t.Parallel()
	s, st := open(t, filepath.Join(t.TempDir(), "gateway.db"))
	for _, ctx := range []context.Context{as("somebody"), context.Background()} {
		for what, do := range map[string]func() error{
			"set": func() error {
				_, err := s.Set(ctx, "ocsf_json_enabled", settings.Value{Type: settings.Bool})
				return err
			},
			"delete":     func() error { _, _, err := s.Delete(ctx, "ocsf_json_enabled"); return err },
			"policy":     func() error { _, err := s.SetPolicy(ctx, &sandboxpb.SandboxPolicy{}); return err },
			"revision":   func() error { _, _, err := s.RevisionAt(ctx, 0); return err },
			"revisions":  func() error { _, _, err := s.Revisions(ctx, 0, 1); return err },
			"bad key":    func() error { _, err := s.Set(ctx, "policy", settings.Value{}); return err },
			"the policy": func() error { _, _, err := s.Delete(ctx, settings.Reserved); return err },
		} {
			if err := do(); !fault.Is(err, fault.PermissionDenied) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if st.Revision() != 0 {
		t.Error("something was written")
	}
}
