package authz_test

import (
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const (
	asAdmin = "openshell-admin"
	asUser  = "openshell-user"
)

func scheme(tb testing.TB, s authz.Scheme, private bool, members authz.Members) *authz.Authorizer {
	tb.Helper()
	policy := authz.Policy{Scheme: s, PrivateSandboxes: private}
	if s != authz.Authenticated {
		policy.AdminRole, policy.UserRole = asAdmin, asUser
	}
	return authorizer(tb, policy).WithMembers(members)
}

func TestWorkspace(t *testing.T) {
	t.Parallel()
	members := fixed{"a": authz.Admin, "u": authz.User}
	for name, tc := range map[string]struct {
		scheme    authz.Scheme
		roles     string
		workspace string
		need      authz.Role
		want      string
	}{
		"roles, user":                  {authz.Roles, asUser, "x", authz.User, ""},
		"roles, user as admin":         {authz.Roles, asUser, "a", authz.Admin, "role 'openshell-admin' required"},
		"roles, admin":                 {authz.Roles, asAdmin, "x", authz.Admin, ""},
		"roles, none":                  {authz.Roles, "", "a", authz.User, "role 'openshell-user' required"},
		"authenticated":                {authz.Authenticated, "", "x", authz.Admin, ""},
		"workspaces, admin of it":      {authz.Workspaces, asUser, "a", authz.Admin, ""},
		"workspaces, admin as user":    {authz.Workspaces, asUser, "a", authz.User, ""},
		"workspaces, user":             {authz.Workspaces, asUser, "u", authz.User, ""},
		"workspaces, user as admin":    {authz.Workspaces, asUser, "u", authz.Admin, "workspace role 'admin' required in workspace 'u'; an administrator can run: openshell workspace member add --workspace 'u' --subject 's' --role admin"},
		"workspaces, stranger":         {authz.Workspaces, asUser, "x", authz.User, "not a member of workspace 'x'; an administrator can run: openshell workspace member add --workspace 'x' --subject 's' --role user"},
		"workspaces, stranger, admin":  {authz.Workspaces, asUser, "x", authz.Admin, "--role admin"},
		"workspaces, platform admin":   {authz.Workspaces, asAdmin, "x", authz.Admin, ""},
		"workspaces, a hostile name":   {authz.Workspaces, asUser, "x'; rm -rf /\n\x1b[0m", authz.User, `--workspace 'x'"'"'; rm -rf /[0m' --subject`},
		"workspaces, a very long name": {authz.Workspaces, asUser, strings.Repeat("x", 1<<20), authz.User, strings.Repeat("x", 1024) + "...'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := scheme(t, tc.scheme, false, members).Workspace(user(tc.roles, ""), tc.workspace, tc.need)
			if tc.want == "" && err != nil || tc.want != "" && (!fault.Is(err, fault.PermissionDenied) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %.200v, want %.200q", err, tc.want)
			}
			if err != nil && (len(err.Error()) > 4096 || fault.From(err).Next == "" || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("refusal of %d bytes: %+.300v", len(err.Error()), fault.From(err))
			}
		})
	}
}

func TestOnlyUsersActInWorkspaces(t *testing.T) {
	t.Parallel()
	sandbox := &principal.Principal{Kind: principal.Sandbox, SandboxID: "b", Roles: []string{asAdmin}}
	for _, s := range []authz.Scheme{authz.Roles, authz.Workspaces, authz.Authenticated} {
		a := scheme(t, s, false, fixed{"w": authz.Admin})
		for _, p := range []*principal.Principal{nil, {}, sandbox} {
			want := fault.Unauthenticated
			if p == sandbox {
				want = fault.PermissionDenied
			}
			if err := a.Workspace(p, "w", authz.User); !fault.Is(err, want) {
				t.Errorf("%s, %+v: %v", s, p, err)
			}
			if err := a.PlatformAdmin(p); !fault.Is(err, want) {
				t.Errorf("%s, %+v: %v", s, p, err)
			}
			if a.Sees(p, "w", p.Actor()) || a.Listed(p, "w") || a.Admin(p) {
				t.Errorf("%s: %+v sees something", s, p)
			}
			if owner, limited := a.Limit(p, "w"); !limited || owner != p.Actor() {
				t.Errorf("%s: %+v is limited to %q, %t", s, p, owner, limited)
			}
		}
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	members := fixed{"a": authz.Admin, "u": authz.User}
	for name, tc := range map[string]struct {
		scheme    authz.Scheme
		private   bool
		roles     string
		workspace string
		foreign   bool
	}{
		"shared":                              {authz.Roles, false, asUser, "u", true},
		"private, user":                       {authz.Roles, true, asUser, "u", false},
		"private, member's role counts not":   {authz.Roles, true, asUser, "a", false},
		"private, admin":                      {authz.Roles, true, asAdmin, "u", true},
		"private, workspaces, user":           {authz.Workspaces, true, asUser, "u", false},
		"private, workspaces, admin of it":    {authz.Workspaces, true, asUser, "a", true},
		"private, workspaces, platform admin": {authz.Workspaces, true, asAdmin, "x", true},
		"private, workspaces, all of them":    {authz.Workspaces, true, asUser, "", false},
		"private, authenticated":              {authz.Authenticated, true, "", "a", false},
		"shared, authenticated":               {authz.Authenticated, false, "", "a", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, p := scheme(t, tc.scheme, tc.private, members), user(tc.roles, "")
			for owner, own := range map[string]bool{
				"i|s": true, "i|t": false, "": false, "i|s ": false, "j|s": false, "is|": false, "|is": false, "sandbox/s": false,
			} {
				if got := a.Sees(p, tc.workspace, owner); got != (own || tc.foreign) {
					t.Errorf("sees a sandbox of %q: %t", owner, got)
				}
			}
			if owner, limited := a.Limit(p, tc.workspace); limited == tc.foreign || limited && owner != "i|s" {
				t.Errorf("limited to %q, %t", owner, limited)
			}
		})
	}
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy authz.Policy
		want   authz.Scheme
		err    string
	}{
		"told by names":        {authz.Policy{AdminRole: "a", UserRole: "u"}, authz.Roles, ""},
		"told by no names":     {authz.Policy{}, authz.Authenticated, ""},
		"workspaces":           {authz.Policy{Scheme: authz.Workspaces, AdminRole: "a", UserRole: "u"}, authz.Workspaces, ""},
		"workspaces, no names": {authz.Policy{Scheme: authz.Workspaces}, "", "needs role names"},
		"roles, no names":      {authz.Policy{Scheme: authz.Roles}, "", "needs role names"},
		"everybody, names":     {authz.Policy{Scheme: authz.Authenticated, AdminRole: "a", UserRole: "u"}, "", "knows no roles"},
		"half":                 {authz.Policy{Scheme: authz.Workspaces, AdminRole: "a"}, "", "OIDC RBAC misconfiguration"},
		"unknown":              {authz.Policy{Scheme: "rbac", AdminRole: "a", UserRole: "u"}, "", "unknown scheme"},
	} {
		a, err := authz.New(table(t), tc.policy)
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: %v, want %q", name, err, tc.err)
		case tc.err == "" && (err != nil || a.Policy().Scheme != tc.want):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token may carry the empty string as a role, which must not be the name of a role that is not named.
func TestEmptyRoleIsNoRole(t *testing.T) {
	t.Parallel()
	var nobody authz.Current
	p := &principal.Principal{Kind: principal.User, Roles: []string{""}, Scopes: []string{""}}
	if nobody.Admin(p) || nobody.Workspace(p, "default", authz.User) == nil || nobody.Sees(p, "default", p.Actor()+"x") ||
		nobody.Authorize(p, shell+"GetSandbox") == nil || nobody.PlatformAdmin(p) == nil || nobody.Listed(p, "default") || nobody.Table() != nil {
		t.Error("without an authorizer somebody may do something")
	}
}

func TestBootstrapCredentials(t *testing.T) {
	t.Parallel()
	a := authorizer(t, roles)
	for source, opens := range map[string]string{
		principal.SourceExpiredToken:   shell + "RefreshSandboxToken",
		principal.SourceServiceAccount: shell + "IssueSandboxToken",
	} {
		for _, method := range a.Table().Methods() {
			rule, _ := a.Table().Rule(method)
			err := a.Authorize(&principal.Principal{Kind: principal.Sandbox, SandboxID: "b", Source: source}, method)
			if may := method == opens || rule.Mode == authz.Unauthenticated; may != (err == nil) {
				t.Errorf("%s calls %s: %v", source, method, err)
			}
		}
	}
}

// fixed is the memberships of one user, by workspace.
type fixed map[string]authz.Role

func (f fixed) Role(workspace string, _ *principal.Principal) authz.Role { return f[workspace] }
func (f fixed) Of(*principal.Principal) map[string]authz.Role            { return f }
func (f fixed) Name(p *principal.Principal) string                       { return p.Subject }

// TestVerdicts compares what two policies mean for one user.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	p := user(asUser, "")
	allowed := func(policy authz.Policy, members authz.Members, workspace string) map[string]bool {
		a, err := authz.New(table(t), policy)
		if err != nil {
			t.Fatal(err)
		}
		a = a.WithMembers(members)
		out := map[string]bool{}
		for _, method := range a.Table().Methods() {
			out[method] = a.Decide(p, method, workspace) == nil
		}
		return out
	}
	before := allowed(roles, nil, "")
	workspaces := roles
	workspaces.Scheme = authz.Workspaces
	stranger := allowed(workspaces, nil, "")
	admin := allowed(workspaces, fixed{"default": authz.Admin}, "")
	for method, want := range map[string][3]bool{
		shell + "GetSandbox":      {true, false, true},
		shell + "CreateProvider":  {false, false, true},
		shell + "GetGatewayInfo":  {false, false, false},
		shell + "ListWorkspaces":  {true, true, true},
		shell + "GetCurrentUser":  {true, true, true},
		shell + "Health":          {true, true, true},
		shell + "CreateWorkspace": {false, false, false},
		shell + "RelayStream":     {false, false, false},
	} {
		if got := [3]bool{before[method], stranger[method], admin[method]}; got != want {
			t.Errorf("%s: roles, stranger, administrator of the workspace: %v, want %v", method, got, want)
		}
	}
	if _, err := authz.New(table(t), authz.Policy{AdminRole: "a"}); err == nil {
		t.Error("half a policy was judged by")
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	var current authz.Current
	current.Store(scheme(t, authz.Workspaces, false, fixed{"w": authz.User}))
	p, m := user(asUser, ""), current.Memberships()
	if got := m.Of(p); len(got) != 1 || got["w"] != "user" {
		t.Errorf("member of %v", got)
	}
	a := current.Load()
	if err := a.Decide(p, shell+"GetSandbox", "w"); err != nil {
		t.Error(err)
	}
	if err := a.Decide(p, shell+"GetSandbox", ""); err == nil || !strings.Contains(err.Error(), "'default'") {
		t.Errorf("in the default workspace: %v", err)
	}
	if err := a.Decide(p, shell+"GetCurrentUser", "x"); err != nil {
		t.Errorf("a method of no workspace: %v", err)
	}
	current.Store(scheme(t, authz.Roles, false, fixed{"w": authz.User}))
	if got := m.Of(p); got != nil {
		t.Errorf("without effect, but member of %v", got)
	}
}

func BenchmarkWorkspaceAndOwner(b *testing.B) {
	for _, s := range []authz.Scheme{authz.Roles, authz.Workspaces} {
		b.Run(string(s), func(b *testing.B) {
			a, p := scheme(b, s, true, fixed{"w": authz.User}), user(asUser, "")
			b.ReportAllocs()
			for b.Loop() {
				if err := a.Workspace(p, "w", authz.User); err != nil || !a.Sees(p, "w", "i|s") {
					b.Fatal(err)
				}
			}
		})
	}
}
