package authz_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "sallyport.dev/sallyport/gen/sallyportpb"     // registers its services
	_ "sallyport.dev/sallyport/gen/v00/inferencepb" // registers its services
	_ "sallyport.dev/sallyport/gen/v00/openshellpb" // registers its services
	"sallyport.dev/sallyport/gen/v00/optionspb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const shell = "/openshell.v1.OpenShell/"

// services returns every service of the packages that the gateway serves.
func services() []protoreflect.ServiceDescriptor {
	var found []protoreflect.ServiceDescriptor
	for _, pkg := range []protoreflect.FullName{"openshell.v1", "openshell.inference.v1", "sallyport.v1"} {
		protoregistry.GlobalFiles.RangeFilesByPackage(pkg, func(file protoreflect.FileDescriptor) bool {
			for i := range file.Services().Len() {
				found = append(found, file.Services().Get(i))
			}
			return true
		})
	}
	return found
}

func table(tb testing.TB) *authz.Table {
	tb.Helper()
	t, err := authz.NewTable(services()...)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func authorizer(tb testing.TB, policy authz.Policy) *authz.Authorizer {
	tb.Helper()
	a, err := authz.New(table(tb), policy)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

var roles = authz.Policy{AdminRole: "openshell-admin", UserRole: "openshell-user"}

func user(roles, scopes string) *principal.Principal {
	return &principal.Principal{
		Kind: principal.User, Subject: "s", Issuer: "i", Provider: principal.ProviderOIDC,
		Roles: strings.Fields(roles), Scopes: strings.Fields(scopes),
	}
}

func TestEveryMethodHasARule(t *testing.T) {
	t.Parallel()
	tab, n := table(t), 0
	for _, service := range services() {
		for i := range service.Methods().Len() {
			n++
			path := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(i).Name())
			if _, ok := tab.Rule(path); !ok {
				t.Errorf("%s has no rule", path)
			}
		}
	}
	if n < 75 {
		t.Errorf("only %d methods found", n)
	}
	if got := len(tab.Methods()); got != n+5 {
		t.Errorf("%d rules for %d methods and the five of health and reflection", got, n)
	}
}

// TestSomeRules pins one rule of each sort, so that reading the options wrong cannot pass unseen.
func TestSomeRules(t *testing.T) {
	t.Parallel()
	tab := table(t)
	for path, want := range map[string]authz.Rule{
		shell + "Health":                                        {Mode: authz.Unauthenticated},
		shell + "GetCurrentUser":                                {Mode: authz.Bearer},
		shell + "GetGatewayConfig":                              {Mode: authz.Bearer, Scope: "config:read"},
		shell + "GetGatewayInfo":                                {Mode: authz.Bearer, Role: authz.PlatformAdmin, Scope: "config:read"},
		shell + "CreateSandbox":                                 {Mode: authz.Bearer, Role: authz.User, Scope: "sandbox:write"},
		shell + "CreateProvider":                                {Mode: authz.Bearer, Role: authz.Admin, Scope: "provider:write"},
		shell + "ImportProviderProfiles":                        {Mode: authz.Bearer, Role: authz.Admin, Scope: "provider:write"},
		shell + "UpdateConfig":                                  {Mode: authz.Dual, Role: authz.Admin, Scope: "config:write"},
		shell + "GetSandboxConfig":                              {Mode: authz.Dual, Role: authz.User, Scope: "config:read"},
		shell + "ConnectSupervisor":                             {Mode: authz.SandboxOnly},
		shell + "RelayStream":                                   {Mode: authz.SandboxOnly},
		"/openshell.inference.v1.Inference/SetClusterInference": {Mode: authz.Bearer, Role: authz.PlatformAdmin, Scope: "inference:write"},
		"/openshell.inference.v1.Inference/GetClusterInference": {Mode: authz.Bearer, Role: authz.User, Scope: "inference:read"},
		"/sallyport.v1.Gateway/ListCredentials":                 {Mode: authz.Bearer, Role: authz.PlatformAdmin, Scope: "provider:read"},
		"/grpc.health.v1.Health/Check":                          {Mode: authz.Unauthenticated},
	} {
		if got, ok := tab.Rule(path); !ok || got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// callers are the kinds of principal, with what an independent reading of a rule says about each.
var callers = []struct {
	name string
	p    *principal.Principal
	may  func(r authz.Rule) bool
}{
	{"nobody", nil, func(r authz.Rule) bool { return r.Mode == "unauthenticated" }},
	{"anonymous", &principal.Principal{}, func(r authz.Rule) bool { return r.Mode == "unauthenticated" }},
	{"sandbox", &principal.Principal{Kind: principal.Sandbox, SandboxID: "b"}, func(r authz.Rule) bool {
		return r.Mode == "unauthenticated" || r.Mode == "sandbox" || r.Mode == "dual"
	}},
	{"shared secret", &principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret}, func(r authz.Rule) bool {
		return r.Mode == "unauthenticated" || r.Mode == "sandbox" || r.Mode == "dual"
	}},
	{"sandbox with an admin's roles", &principal.Principal{
		Kind: principal.Sandbox, SandboxID: "b", Roles: []string{"openshell-admin"}, Scopes: []string{"openshell:all"},
	}, func(r authz.Rule) bool { return r.Mode != "bearer" }},
	{"admin, all scopes", user("openshell-admin", "openshell:all"), func(r authz.Rule) bool { return r.Mode != "sandbox" }},
	{"admin, no scopes", user("openshell-admin", ""), func(r authz.Rule) bool { return r.Mode != "sandbox" && r.Scope == "" }},
	{"admin, sandbox:read", user("openshell-admin", "sandbox:read"), func(r authz.Rule) bool {
		return r.Mode != "sandbox" && (r.Scope == "" || r.Scope == "sandbox:read")
	}},
	{"user, all scopes", user("other openshell-user", "openshell:all"), func(r authz.Rule) bool {
		return r.Mode != "sandbox" && r.Role != "admin" && r.Role != "platform_admin"
	}},
	{"user, provider:read", user("openshell-user", "provider:read x"), func(r authz.Rule) bool {
		return r.Mode != "sandbox" && r.Role != "admin" && r.Role != "platform_admin" && (r.Scope == "" || r.Scope == "provider:read")
	}},
	{"no role, all scopes", user("other", "openshell:all"), func(r authz.Rule) bool { return r.Mode != "sandbox" && r.Role == "" }},
}

func TestEveryMethodForEveryCaller(t *testing.T) {
	t.Parallel()
	policy := roles
	policy.ScopesEnabled = true
	a := authorizer(t, policy)
	for _, method := range a.Table().Methods() {
		rule, _ := a.Table().Rule(method)
		for _, caller := range callers {
			err := a.Authorize(caller.p, method)
			if (err == nil) != caller.may(rule) {
				t.Errorf("%s calls %s (%+v): %v", caller.name, method, rule, err)
			}
			if err == nil {
				continue
			}
			if f := fault.From(err); f.Reason == "" || f.Next == "" || f.Kind == fault.Internal {
				t.Errorf("%s calls %s: incomplete refusal %+v", caller.name, method, f)
			}
		}
	}
}

func TestTextsOfRefusals(t *testing.T) {
	t.Parallel()
	withScopes := roles
	withScopes.ScopesEnabled = true
	for _, tc := range []struct {
		name   string
		policy authz.Policy
		p      *principal.Principal
		method string
		kind   fault.Kind
		want   string
	}{
		{"user creates a provider", withScopes, user("openshell-user", "openshell:all"), shell + "CreateProvider", fault.PermissionDenied, "role 'openshell-admin' required"},
		{"user asks for the gateway", withScopes, user("openshell-user", "openshell:all"), shell + "GetGatewayInfo", fault.PermissionDenied, "role 'openshell-admin' required"},
		{"stranger lists", withScopes, user("", "openshell:all"), shell + "ListSandboxes", fault.PermissionDenied, "role 'openshell-user' required"},
		{"role comes before scope", withScopes, user("openshell-user", ""), shell + "CreateProvider", fault.PermissionDenied, "role 'openshell-admin' required"},
		{"scope", withScopes, user("openshell-admin", "sandbox:read sandbox:write"), shell + "ListProviders", fault.PermissionDenied, "scope 'provider:read' required"},
		{"scopes without role", authz.Policy{ScopesEnabled: true}, user("", "sandbox:read"), shell + "CreateSandbox", fault.PermissionDenied, "scope 'sandbox:write' required"},
		{"other role names", authz.Policy{AdminRole: "boss", UserRole: "staff"}, user("staff", ""), shell + "CreateProvider", fault.PermissionDenied, "role 'boss' required"},
		{"user on a sandbox method", roles, user("openshell-admin", "openshell:all"), shell + "ConnectSupervisor", fault.PermissionDenied, "this method requires a sandbox principal"},
		{"sandbox on a user method", roles, callers[2].p, shell + "GetSandbox", fault.PermissionDenied, "sandbox principals may not call this method"},
		{"nobody", roles, nil, shell + "GetSandbox", fault.Unauthenticated, "missing authorization header"},
		{"unknown method, nobody", roles, nil, shell + "Nope", fault.Unauthenticated, "missing authorization header"},
		{"unknown method, sandbox", roles, callers[2].p, shell + "Nope", fault.PermissionDenied, "sandbox principals may not call this method"},
		{"unknown method, stranger", roles, user("", ""), shell + "Nope", fault.PermissionDenied, "role 'openshell-user' required"},
		{"unknown method, scoped", withScopes, user("openshell-user", "sandbox:read"), shell + "Nope", fault.PermissionDenied, "scope 'openshell:all' required"},
		{"unknown method", withScopes, user("openshell-user", "openshell:all"), shell + "Nope", fault.Unimplemented, "Nope"},
		{"unknown method without scopes", roles, user("openshell-admin", ""), "/x/y", fault.Unimplemented, "/x/y"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := authorizer(t, tc.policy).Authorize(tc.p, tc.method)
			if !fault.Is(err, tc.kind) || !strings.Contains(fault.From(err).Message, tc.want) {
				t.Errorf("got %v, want kind %d with %q", err, tc.kind, tc.want)
			}
		})
	}
}

func TestAuthenticationOnlyMode(t *testing.T) {
	t.Parallel()
	a := authorizer(t, authz.Policy{})
	if err := a.Authorize(user("", ""), shell+"CreateProvider"); err != nil {
		t.Errorf("signed in: %v", err)
	}
	if err := a.Authorize(nil, shell+"CreateProvider"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("not signed in: %v", err)
	}
	if err := a.Authorize(user("", ""), shell+"ConnectSupervisor"); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("user as supervisor: %v", err)
	}
}

func TestHalfAPolicyIsRefused(t *testing.T) {
	t.Parallel()
	for _, policy := range []authz.Policy{{AdminRole: "a"}, {UserRole: "u"}} {
		if _, err := authz.New(table(t), policy); err == nil || !strings.Contains(err.Error(), "OIDC RBAC misconfiguration") {
			t.Errorf("%+v: %v", policy, err)
		}
	}
	if _, err := authz.New(nil, roles); err == nil {
		t.Error("an authorizer without rules was made")
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	a := authorizer(t, roles)
	for _, tc := range []struct {
		p    *principal.Principal
		want bool
	}{
		{nil, false},
		{user("openshell-user", "openshell:all"), false},
		{user("openshell-admin", ""), true},
		{&principal.Principal{Kind: principal.Sandbox, Roles: []string{"openshell-admin"}}, false},
	} {
		if got := a.Admin(tc.p); got != tc.want {
			t.Errorf("%+v: %v", tc.p, got)
		}
	}
}

func TestInconsistentRulesAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		rule *optionspb.AuthorizationRule
		want string
	}{
		{"none", nil, "has no rule"},
		{"empty", &optionspb.AuthorizationRule{}, "unknown mode"},
		{"unknown mode", &optionspb.AuthorizationRule{AuthMode: "Bearer"}, "unknown mode"},
		{"two roles", &optionspb.AuthorizationRule{AuthMode: "bearer", WorkspaceRole: "user", GlobalRole: "platform_admin", Scope: "config:read"}, "workspace role and a global role"},
		{"unknown workspace role", &optionspb.AuthorizationRule{AuthMode: "bearer", WorkspaceRole: "platform_admin", Scope: "config:read"}, "unknown workspace role"},
		{"unknown global role", &optionspb.AuthorizationRule{AuthMode: "bearer", GlobalRole: "admin", Scope: "config:read"}, "unknown global role"},
		{"unknown scope", &optionspb.AuthorizationRule{AuthMode: "bearer", WorkspaceRole: "user", Scope: "sandbox:raed"}, "unknown scope"},
		{"all as a scope", &optionspb.AuthorizationRule{AuthMode: "bearer", WorkspaceRole: "user", Scope: "openshell:all"}, "unknown scope"},
		{"no role", &optionspb.AuthorizationRule{AuthMode: "bearer", Scope: "config:read"}, "no role"},
		{"no scope", &optionspb.AuthorizationRule{AuthMode: "dual", WorkspaceRole: "user"}, "no scope"},
		{"open with role", &optionspb.AuthorizationRule{AuthMode: "unauthenticated", WorkspaceRole: "user"}, "asks for a role or a scope"},
		{"sandbox with scope", &optionspb.AuthorizationRule{AuthMode: "sandbox", Scope: "config:read"}, "asks for a role or a scope"},
		{"good", &optionspb.AuthorizationRule{AuthMode: "dual", WorkspaceRole: "user", Scope: "config:read"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := authz.NewTable(serviceWith(t, "test.v1", "Service", "Method", tc.rule))
			if tc.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "/test.v1.Service/Method")) {
				t.Errorf("got %v, want %q about the method", err, tc.want)
			}
		})
	}
}

func TestRuleInContractAndCodeIsRefused(t *testing.T) {
	t.Parallel()
	rule := &optionspb.AuthorizationRule{AuthMode: "bearer", WorkspaceRole: "user", Scope: "inference:read"}
	_, err := authz.NewTable(serviceWith(t, "openshell.inference.v1", "Inference", "GetClusterInference", rule))
	if err == nil || !strings.Contains(err.Error(), "another in the code") {
		t.Errorf("got %v", err)
	}
}

// serviceWith builds a service with one method that carries the rule.
func serviceWith(t *testing.T, pkg, service, method string, rule *optionspb.AuthorizationRule) protoreflect.ServiceDescriptor {
	t.Helper()
	options := &descriptorpb.MethodOptions{}
	if rule != nil {
		proto.SetExtension(options, optionspb.E_Authorization, rule)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("test.proto"), Package: proto.String(pkg), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String(service),
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name: proto.String(method), InputType: proto.String("." + pkg + ".M"), OutputType: proto.String("." + pkg + ".M"),
				Options: options,
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Services().Get(0)
}

func BenchmarkAuthorize(b *testing.B) {
	policy := roles
	policy.ScopesEnabled = true
	a, p := authorizer(b, policy), user("openshell-user", "sandbox:read sandbox:write")
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Authorize(p, shell+"GetSandbox"); err != nil {
			b.Fatal(err)
		}
	}
}
