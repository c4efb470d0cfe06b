package oidc_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
)

// describe returns the plainest configuration of a provider.
func describe(idp *oidctest.Issuer, name string) oidc.Issuer {
	return oidc.Issuer{Name: name, URL: idp.URL, Audiences: []string{oidctest.Audience}}
}

// open returns a set that reaches the providers.
func open(tb testing.TB, o oidc.Options, client *http.Client, issuers ...oidc.Issuer) *oidc.Issuers {
	tb.Helper()
	o.HTTPClient = client
	s, err := oidc.NewIssuers(issuers, o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// one returns a set of one issuer with a changed configuration.
func one(tb testing.TB, idp *oidctest.Issuer, change func(*oidc.Issuer)) *oidc.Issuers {
	tb.Helper()
	config := describe(idp, "idp")
	if change != nil {
		change(&config)
	}
	return open(tb, oidc.Options{}, idp.Client(), config)
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	f := fault.From(err)
	if err == nil || f.Reason != reason {
		t.Errorf("got %v, want %s", err, reason)
	} else if f.Next == "" {
		t.Errorf("%v has no next step", err)
	}
}

// counts is an observer that can be read.
type counts struct {
	mu   sync.Mutex
	seen map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]int{}
	}
	c.seen[what]++
}

func (c *counts) KeysFetched(issuer, result string) { c.add("fetch " + issuer + " " + result) }
func (c *counts) Verified(issuer, result string)    { c.add("verify " + issuer + " " + result) }

func (c *counts) get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := map[string]int{}
	for what, n := range c.seen {
		got[what] = n
	}
	return got
}

func TestEachIssuerHasItsOwnRules(t *testing.T) {
	t.Parallel()
	people := oidctest.NewNamed(t, "https://people.test/realms/a")
	ci := oidctest.NewNamed(t, "https://ci.test")
	observed := &counts{}
	s := open(t, oidc.Options{Observer: observed}, oidctest.Network(people, ci),
		oidc.Issuer{Name: "people", URL: people.URL + "/", Audiences: []string{oidctest.Audience, "second"}, ScopesClaim: "scope"},
		oidc.Issuer{Name: "ci", URL: ci.URL, Audiences: []string{"ci"}, DefaultRoles: []string{"openshell-user"}, Tenant: "robots"})

	p, err := s.Verify(t.Context(), people.Mint(map[string]any{"realm_access": oidctest.Roles("openshell-admin"), "scope": "openid x"}))
	if err != nil {
		t.Fatal(err)
	}
	if p.Issuer != people.URL || p.Tenant != oidctest.Audience || !cmp.Equal(p.Roles, []string{"openshell-admin"}) || !cmp.Equal(p.Scopes, []string{"x"}) {
		t.Errorf("person: %+v", p)
	}
	if p, err = s.Verify(t.Context(), people.Mint(map[string]any{"aud": []string{"x", "second"}})); err != nil || p.Tenant != "second" {
		t.Errorf("second audience: %+v, %v", p, err)
	}
	job := ci.Mint(map[string]any{"aud": "ci", "scope": "x"})
	for range 2 {
		if p, err = s.Verify(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	if p.Issuer != ci.URL || p.Tenant != "robots" || !cmp.Equal(p.Roles, []string{"openshell-user"}) || p.Scopes != nil {
		t.Errorf("job: %+v", p)
	}
	_, err = s.Verify(t.Context(), ci.Mint(nil)) // The audience of people.
	wantReason(t, err, oidc.ReasonAudience)
	_, err = s.Verify(t.Context(), ci.Mint(map[string]any{"iss": people.URL})) // People's name on a key of CI.
	wantReason(t, err, oidc.ReasonSignature)
	fetches := people.KeyFetches.Load() + ci.KeyFetches.Load()
	_, err = s.Verify(t.Context(), ci.Mint(map[string]any{"iss": "https://evil.test"}))
	wantReason(t, err, oidc.ReasonIssuer)
	if people.KeyFetches.Load()+ci.KeyFetches.Load() != fetches {
		t.Error("an unknown issuer caused a fetch")
	}
	want := map[string]int{
		"fetch people changed": 1, "fetch ci changed": 1,
		"verify people accepted": 2, "verify ci accepted": 1, "verify ci remembered": 1,
		"verify ci TOKEN_AUDIENCE": 1, "verify people TOKEN_SIGNATURE": 1, "verify unknown TOKEN_ISSUER": 1,
	}
	if diff := cmp.Diff(want, observed.get()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

// Two servers that were started from one prepared database sign with the same keys.
func TestIssuersWithTheSameKeysAreNotConfused(t *testing.T) {
	t.Parallel()
	a, b := oidctest.NewNamed(t, "https://a.test"), oidctest.NewNamed(t, "https://b.test")
	b.SetKeys(a.Keys()...)
	var passed atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	s := open(t, oidc.Options{Now: clock}, oidctest.Network(a, b),
		oidc.Issuer{Name: "a", URL: a.URL, Audiences: []string{oidctest.Audience}, Tenant: "tenant-a"},
		oidc.Issuer{Name: "b", URL: b.URL, Audiences: []string{oidctest.Audience}, Tenant: "tenant-b"})
	for idp, tenant := range map[*oidctest.Issuer]string{a: "tenant-a", b: "tenant-b"} {
		p, err := s.Verify(t.Context(), idp.Mint(nil))
		if err != nil || p.Issuer != idp.URL || p.Tenant != tenant {
			t.Errorf("%s: %+v, %v", tenant, p, err)
		}
	}
	// One withdraws the key, the other does not: in the name of the one it signs nothing any more.
	key := a.Keys()[0]
	a.Rotate()
	passed.Store(int64(11 * time.Second))
	accept(t, s, a.Mint(nil)) // Fetches the new key.
	_, err := s.Verify(t.Context(), b.MintWith(key, nil, map[string]any{"iss": a.URL}))
	wantReason(t, err, oidc.ReasonUnknownKey)
	accept(t, s, b.MintWith(key, nil, map[string]any{"jti": "new"}))
}

// A token may name the audiences of several tenants. What separates them is a claim that the provider vouches for.
func TestATokenOfTwoAudiencesFailsOnTheOtherTenantsGateway(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	gateway := func(team string) *oidc.Issuers {
		return one(t, idp, func(c *oidc.Issuer) {
			c.Audiences, c.Tenant = []string{team}, team
			c.Required = []oidc.RequiredClaim{{Claim: "groups", Values: []string{team, "admins"}}}
		})
	}
	alice := idp.Mint(map[string]any{"aud": []string{"team1", "team2"}, "groups": []string{"team1"}})
	p, err := gateway("team1").Verify(t.Context(), alice)
	if err != nil || p.Tenant != "team1" {
		t.Errorf("her own: %+v, %v", p, err)
	}
	_, err = gateway("team2").Verify(t.Context(), alice)
	wantReason(t, err, oidc.ReasonRequiredClaim)
	if f := fault.From(err); strings.Contains(f.Message+f.Next, "team2") || !strings.Contains(f.Message, "groups") {
		t.Errorf("it should name the claim and keep what it must be: %v; %s", f.Message, f.Next)
	}
	admin := idp.Mint(map[string]any{"aud": []string{"team1", "team2"}, "groups": []string{"x", "admins"}})
	for _, team := range []string{"team1", "team2"} {
		if _, err := gateway(team).Verify(t.Context(), admin); err != nil {
			t.Errorf("admin of both on %s: %v", team, err)
		}
	}
	for name, groups := range map[string]any{"none": nil, "empty": []string{}, "longer": "team22", "object": map[string]any{"team2": true}, "in a text": "team1 team2"} {
		_, err := gateway("team2").Verify(t.Context(), idp.Mint(map[string]any{"aud": "team2", "groups": groups, "jti": name}))
		wantReason(t, err, oidc.ReasonRequiredClaim)
	}
}

func TestEveryRequiredClaimCounts(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, func(c *oidc.Issuer) {
		c.Required = []oidc.RequiredClaim{{Claim: "org", Values: []string{"o"}}, {Claim: `"a.b".verified`, Values: []string{"true"}}}
	})
	for _, tc := range []struct {
		org, verified any
		admitted      bool
	}{{"o", true, true}, {"o", "true", true}, {"o", false, false}, {"p", true, false}, {nil, true, false}, {"o", 1, false}} {
		_, err := s.Verify(t.Context(), idp.Mint(map[string]any{"org": tc.org, "a.b": map[string]any{"verified": tc.verified}}))
		if tc.admitted != (err == nil) {
			t.Errorf("%v, %v: %v", tc.org, tc.verified, err)
		}
	}
}

func TestRoleMapping(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	mapping := map[string][]string{"Admins": {"openshell-admin", "openshell-user"}, "Staff": {"openshell-user"}}
	for _, tc := range []struct {
		name   string
		change func(*oidc.Issuer)
		roles  any
		want   []string
	}{
		{"none", nil, []string{"a", "b"}, []string{"a", "b"}},
		{"twice", nil, []string{"a", "a"}, []string{"a"}},
		{"mapped", func(c *oidc.Issuer) { c.RoleMap = mapping }, []string{"Admins", "other"}, []string{"openshell-admin", "openshell-user", "other"}},
		{"strict", func(c *oidc.Issuer) { c.RoleMap, c.StrictRoles = mapping, true }, []string{"openshell-admin", "Staff"}, []string{"openshell-user"}},
		{"one as text", func(c *oidc.Issuer) { c.RoleMap, c.StrictRoles = mapping, true }, "Staff", []string{"openshell-user"}},
		{"to the same", func(c *oidc.Issuer) { c.RoleMap = mapping }, []string{"Staff", "Admins"}, []string{"openshell-user", "openshell-admin"}},
		{"defaults come last", func(c *oidc.Issuer) { c.DefaultRoles = []string{"d", "a"} }, []string{"a"}, []string{"a", "d"}},
		{"defaults alone", func(c *oidc.Issuer) { c.DefaultRoles = []string{"d"} }, nil, []string{"d"}},
		{"defaults are not mapped", func(c *oidc.Issuer) { c.RoleMap, c.DefaultRoles = mapping, []string{"Staff"} }, nil, []string{"Staff"}},
		{"strict without a map", func(c *oidc.Issuer) { c.StrictRoles = true }, []string{"openshell-admin"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := one(t, idp, func(c *oidc.Issuer) {
				c.RolesClaim = "groups"
				if tc.change != nil {
					tc.change(c)
				}
			})
			p, err := s.Verify(t.Context(), idp.Mint(map[string]any{"groups": tc.roles}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, p.Roles); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdentityClaims(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, func(c *oidc.Issuer) { c.UsernameClaim = "email" })
	for _, tc := range []struct {
		name    string
		change  map[string]any
		display string
		session string
		issued  bool
	}{
		{"all", map[string]any{"email": "a@example.test", "sid": "s"}, "a@example.test", "s", true},
		{"none", map[string]any{"iat": nil}, "", "", false},
		{"of other types", map[string]any{"email": 1, "sid": []string{"s"}, "iat": "now"}, "", "", false},
		{"with control characters", map[string]any{"email": "a\nb", "sid": "a\x00"}, "", "", true},
		{"too long", map[string]any{"email": strings.Repeat("e", 1025), "sid": strings.Repeat("s", 257)}, "", "", true},
	} {
		p, err := s.Verify(t.Context(), idp.Mint(tc.change))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if p.DisplayName != tc.display || p.SessionID != tc.session || p.Issued.IsZero() == tc.issued {
			t.Errorf("%s: %+v", tc.name, p)
		}
	}
}

func TestAlgorithmsOfAnIssuer(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, func(c *oidc.Issuer) { c.Algorithms = []string{"RS256", "EdDSA"} })
	_, err := s.Verify(t.Context(), idp.Mint(nil))
	wantReason(t, err, oidc.ReasonAlgorithm)
	if idp.KeyFetches.Load() != 0 {
		t.Error("it caused a fetch")
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.EdDSA} {
		idp.AddKey(alg)
	}
	for _, key := range idp.Keys()[1:] {
		if _, err := s.Verify(t.Context(), idp.MintWith(key, nil, nil)); err != nil {
			t.Errorf("%s: %v", key.Algorithm, err)
		}
	}
}

func TestReadinessOfEachIssuer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		needed := oidctest.NewNamed(t, "https://needed.test")
		optional := oidctest.NewNamed(t, "https://optional.test")
		loose := describe(optional, "optional")
		loose.Optional = true
		s := open(t, oidc.Options{}, oidctest.Network(needed, optional), describe(needed, "needed"), loose)
		needed.Fail(true)
		optional.Fail(true)
		run(t, s)
		synctest.Wait()
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "issuer needed:") || strings.Contains(err.Error(), "optional") {
			t.Errorf("ready: %v", err)
		}
		status := s.Status()
		if len(status) != 2 || status[0].Name != "needed" || status[0].NotReady == nil || status[0].LastFailure == nil ||
			status[0].Optional || !status[1].Optional || status[1].NotReady == nil || !status[1].Confirmed.IsZero() {
			t.Errorf("status: %+v", status)
		}
		needed.Fail(false)
		wait(time.Minute + time.Second) // The longest pause between attempts.
		if err := s.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		status = s.Status()
		if status[0].NotReady != nil || status[0].Keys != 1 || status[0].Confirmed.IsZero() || status[1].NotReady == nil {
			t.Errorf("status: %+v", status)
		}
		// While the one is away, the other's people come in.
		accept(t, s, needed.Mint(nil))
		_, err := s.Verify(t.Context(), optional.Mint(nil))
		wantReason(t, err, oidc.ReasonKeysMissing)
	})
}

func TestOwnAuthorities(t *testing.T) {
	t.Parallel()
	idp, other := oidctest.NewTLS(t), oidctest.NewTLS(t)
	file := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	with := func(path string) (*oidc.Issuers, error) {
		config := describe(idp, "idp")
		config.CAFile = path
		return oidc.NewIssuers([]oidc.Issuer{config}, oidc.Options{})
	}
	s, err := with(file("ca.pem", idp.CA()))
	if err != nil {
		t.Fatal(err)
	}
	accept(t, s, idp.Mint(nil))
	for name, path := range map[string]string{"the system's": "", "another": file("ca.pem", other.CA())} {
		s, err := with(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Verify(t.Context(), idp.Mint(nil))
		wantReason(t, err, oidc.ReasonKeysMissing)
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: ready: %v", name, err)
		}
	}
	for name, path := range map[string]string{
		"missing": "/nowhere/ca.pem", "empty": file("ca.pem", nil), "of no certificate": file("ca.pem", []byte("hello")),
		"huge": file("ca.pem", make([]byte, 1<<20+1)),
	} {
		if _, err := with(path); err == nil || !strings.Contains(err.Error(), "CA file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKnownTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		idp := oidctest.NewInProcess(t)
		s := open(t, oidc.Options{}, idp.Client(), describe(idp, "idp"))
		run(t, s)
		synctest.Wait()
		known := func(token string, want bool) {
			t.Helper()
			if p, ok := s.Known(token); ok != want || (p != nil) != want {
				t.Errorf("known: %v, %v; want %v", p, ok, want)
			}
		}
		token := idp.Mint(nil)
		late := idp.Mint(map[string]any{"exp": time.Now().Unix() - 30})
		known(token, false)
		accept(t, s, token)
		accept(t, s, late)
		known(token, true)
		known(token+"x", false)
		known("", false)
		known(late, false) // Within the leeway it is good, but not remembered.
		wait(5*time.Minute + time.Second)
		known(token, false) // It has expired.

		token = idp.Mint(nil)
		accept(t, s, token)
		idp.Rotate()
		accept(t, s, idp.Mint(nil)) // Fetches the new keys.
		known(token, false)

		long := idp.Mint(map[string]any{"exp": time.Now().Add(48 * time.Hour).Unix()})
		accept(t, s, long)
		idp.Fail(true)
		wait(25 * time.Hour)
		known(long, false) // The keys are too old to be trusted.
	})
}

func TestSetsThatCannotWork(t *testing.T) {
	t.Parallel()
	good := oidc.Issuer{Name: "a", URL: "https://a.test", Audiences: []string{"x"}}
	for name, change := range map[string]func(*oidc.Issuer){
		"no name":                    func(c *oidc.Issuer) { c.Name = "" },
		"name with space":            func(c *oidc.Issuer) { c.Name = "a b" },
		"long name":                  func(c *oidc.Issuer) { c.Name = strings.Repeat("a", 65) },
		"reserved name":              func(c *oidc.Issuer) { c.Name = oidc.UnknownIssuer },
		"no audience":                func(c *oidc.Issuer) { c.Audiences = nil },
		"no audience though lenient": func(c *oidc.Issuer) { c.Audiences, c.AllowMissingAudience = nil, true },
		"empty audience":             func(c *oidc.Issuer) { c.Audiences = []string{"x", ""} },
		"alg none":                   func(c *oidc.Issuer) { c.Algorithms = []string{"none"} },
		"alg HS256":                  func(c *oidc.Issuer) { c.Algorithms = []string{"RS256", "HS256"} },
		"roles path":                 func(c *oidc.Issuer) { c.RolesClaim = `"a` },
		"scopes path":                func(c *oidc.Issuer) { c.ScopesClaim = `a\` },
		"username path":              func(c *oidc.Issuer) { c.UsernameClaim = `"".a` },
		"required path":              func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: `"a"b`, Values: []string{"x"}}} },
		"required nothing":           func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: "a"}} },
		"required empty":             func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: "a", Values: []string{""}}} },
		"required of no claim":       func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Values: []string{"x"}}} },
		"mapped to nothing":          func(c *oidc.Issuer) { c.RoleMap = map[string][]string{"a": nil} },
		"mapped to an empty role":    func(c *oidc.Issuer) { c.RoleMap = map[string][]string{"a": {""}} },
		"default role with newline":  func(c *oidc.Issuer) { c.DefaultRoles = []string{"a\nb"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good
			change(&c)
			if _, err := oidc.NewIssuers([]oidc.Issuer{c}, oidc.Options{}); err == nil {
				t.Error("accepted")
			}
		})
	}
	twin, renamed := good, good
	twin.URL = "https://b.test"
	renamed.Name, renamed.URL = "b", good.URL+"/"
	for name, set := range map[string][]oidc.Issuer{"two of a name": {good, twin}, "one twice": {good, renamed}, "too many": make([]oidc.Issuer, 65)} {
		if _, err := oidc.NewIssuers(set, oidc.Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	none, err := oidc.NewIssuers(nil, oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := none.Verify(t.Context(), oidctest.New(t).Mint(nil)); p != nil || fault.From(err).Reason != oidc.ReasonIssuer {
		t.Errorf("no issuer: %v, %v", p, err)
	}
	if err := none.Ready(); err != nil || !none.Empty() {
		t.Errorf("no issuer: %v, empty %t", err, none.Empty())
	}
}

func TestOverageIsNamed(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	overflown := idp.Mint(oidctest.EntraOverage())
	flagged := idp.Mint(map[string]any{"hasgroups": true})
	both := idp.Mint(map[string]any{"_claim_names": map[string]any{"groups": "src1"}, "groups": []string{"a"}})
	required := func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: "groups", Values: []string{"a"}}} }
	for _, tc := range []struct {
		name, token string
		change      func(*oidc.Issuer)
		want        string
	}{
		{"roles", overflown, func(c *oidc.Issuer) { c.RolesClaim = "groups" }, oidc.ReasonOverage},
		{"roles, flagged", flagged, func(c *oidc.Issuer) { c.RolesClaim = "groups" }, oidc.ReasonOverage},
		{"roles with defaults", overflown, func(c *oidc.Issuer) { c.RolesClaim, c.DefaultRoles = "groups", []string{"d"} }, oidc.ReasonOverage},
		{"required", overflown, required, oidc.ReasonOverage},
		{"required and there", both, required, ""},
		{"of no concern", overflown, func(c *oidc.Issuer) { c.RolesClaim = "roles" }, ""},
	} {
		_, err := one(t, idp, tc.change).Verify(t.Context(), tc.token)
		if tc.want == "" && err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if tc.want != "" {
			wantReason(t, err, tc.want)
		}
	}
}
