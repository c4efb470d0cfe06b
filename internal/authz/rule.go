// Package authz decides what a caller may do: call a method, act in a workspace, see a sandbox. It owns the table of
// rules, which it reads from the contract itself, and the meaning of roles, scopes, memberships and owners. It is the
// one place of such decisions: the door asks it about methods, services ask it about workspaces and objects once they
// know which ones a request is about. It must not know how a caller was recognised, nor any message.
package authz

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"sallyport.dev/sallyport/gen/v00/optionspb"
)

// Mode says which kinds of caller a method has.
type Mode string

// The modes that the contract's options name.
const (
	// Unauthenticated methods answer everybody.
	Unauthenticated Mode = "unauthenticated"
	// Bearer methods are for users.
	Bearer Mode = "bearer"
	// SandboxOnly methods are for supervisors.
	SandboxOnly Mode = "sandbox"
	// Dual methods are for both.
	Dual Mode = "dual"
)

// AdmitsSandbox tells whether supervisors may call a method of this mode.
func (m Mode) AdmitsSandbox() bool { return m == SandboxOnly || m == Dual }

// Role is the least role a user needs for a method.
type Role string

// The roles a rule may ask for. Where workspaces are not in use, admins of a workspace and of the platform are the
// same people.
const (
	NoRole        Role = ""
	User          Role = "user"
	Admin         Role = "admin"
	PlatformAdmin Role = "platform_admin"
)

// ScopeAll satisfies every scope.
const ScopeAll = "openshell:all"

// scopes are all that a rule may ask for, so that a misspelt one is found at start.
var scopes = []string{
	"sandbox:read", "sandbox:write", "provider:read", "provider:write", "config:read", "config:write",
	"inference:read", "inference:write", "workspace:read", "workspace:write",
}

// Rule is what a method asks of its caller.
type Rule struct {
	Mode  Mode
	Role  Role
	Scope string
}

// Changes tells whether a call of the method changes state or acts in a sandbox, so that the audit log has it.
func (r Rule) Changes() bool { return strings.HasSuffix(r.Scope, ":write") }

// Table holds the rule of every method the gateway serves.
type Table struct {
	rules map[string]Rule
}

// without are rules of methods that carry none in the contract: two methods that only the mvp generation has, and
// services that are not part of the contract. The first belongs to the whole gateway and to no workspace; the others
// tell nothing but what the contract already says.
var without = map[string]Rule{
	"/openshell.inference.v1.Inference/SetClusterInference": {Mode: Bearer, Role: PlatformAdmin, Scope: "inference:write"},
	"/openshell.inference.v1.Inference/GetClusterInference": {Mode: Bearer, Role: User, Scope: "inference:read"},

	"/grpc.health.v1.Health/Check": {Mode: Unauthenticated},
	"/grpc.health.v1.Health/List":  {Mode: Unauthenticated},
	"/grpc.health.v1.Health/Watch": {Mode: Unauthenticated},

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {Mode: Unauthenticated},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {Mode: Unauthenticated},
}

// scopeOnly is the only method for signed-in users that may do without a role but not without a scope.
const scopeOnly = "/openshell.v1.OpenShell/GetGatewayConfig"

// anyUser are the methods that answer everybody who is signed in: they tell callers about themselves.
var anyUser = map[string]bool{
	"/openshell.v1.OpenShell/GetCurrentUser": true,
	"/sallyport.v1.Gateway/ExplainAccess":    true,
}

// NewTable reads the rules of all methods of the services. It fails on a method without a rule and on a rule that
// contradicts itself, naming each, so that a new method cannot be served by oversight.
func NewTable(services ...protoreflect.ServiceDescriptor) (*Table, error) {
	t := &Table{rules: maps.Clone(without)}
	var problems []string
	for _, service := range services {
		methods := service.Methods()
		for i := range methods.Len() {
			path := fmt.Sprintf("/%s/%s", service.FullName(), methods.Get(i).Name())
			rule, err := ruleOf(path, methods.Get(i))
			if err != nil {
				problems = append(problems, err.Error())
				continue
			}
			t.rules[path] = rule
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("read authorization rules: %s", strings.Join(problems, "; "))
	}
	return t, nil
}

// Rule returns a method's rule. The method is written "/package.Service/Method".
func (t *Table) Rule(fullMethod string) (Rule, bool) {
	rule, ok := t.rules[fullMethod]
	return rule, ok
}

// Methods returns all methods that have a rule, sorted.
func (t *Table) Methods() []string { return slices.Sorted(maps.Keys(t.rules)) }

func ruleOf(path string, method protoreflect.MethodDescriptor) (Rule, error) {
	explicit, listed := without[path]
	if !proto.HasExtension(method.Options(), optionspb.E_Authorization) {
		if !listed {
			return Rule{}, fmt.Errorf("%s has no rule", path)
		}
		return explicit, nil
	}
	if listed {
		return Rule{}, fmt.Errorf("%s has a rule in the contract and another in the code", path)
	}
	option, ok := proto.GetExtension(method.Options(), optionspb.E_Authorization).(*optionspb.AuthorizationRule)
	if !ok {
		return Rule{}, fmt.Errorf("%s has a rule that cannot be read", path)
	}
	return check(path, option)
}

func check(path string, option *optionspb.AuthorizationRule) (Rule, error) {
	rule := Rule{Mode: Mode(option.GetAuthMode()), Scope: option.GetScope()}
	workspace, global := Role(option.GetWorkspaceRole()), Role(option.GetGlobalRole())
	switch {
	case workspace != NoRole && global != NoRole:
		return Rule{}, fmt.Errorf("%s asks for a workspace role and a global role", path)
	case workspace != NoRole && workspace != User && workspace != Admin:
		return Rule{}, fmt.Errorf("%s asks for unknown workspace role %q", path, workspace)
	case global != NoRole && global != PlatformAdmin:
		return Rule{}, fmt.Errorf("%s asks for unknown global role %q", path, global)
	case rule.Scope != "" && !slices.Contains(scopes, rule.Scope):
		return Rule{}, fmt.Errorf("%s asks for unknown scope %q", path, rule.Scope)
	}
	rule.Role = workspace
	if global != NoRole {
		rule.Role = global
	}
	switch rule.Mode {
	case Unauthenticated, SandboxOnly:
		if rule.Role != NoRole || rule.Scope != "" {
			return Rule{}, fmt.Errorf("%s is %s but asks for a role or a scope", path, rule.Mode)
		}
	case Bearer, Dual:
		if rule.Scope == "" && !anyUser[path] {
			return Rule{}, fmt.Errorf("%s asks for no scope", path)
		}
		if rule.Role == NoRole && !anyUser[path] && path != scopeOnly {
			return Rule{}, fmt.Errorf("%s asks for no role", path)
		}
	default:
		return Rule{}, fmt.Errorf("%s has unknown mode %q", path, rule.Mode)
	}
	return rule, nil
}
