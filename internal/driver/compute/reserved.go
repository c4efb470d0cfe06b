package compute

import "strings"

// ReservedEnvironment tells whether a variable belongs to drivers, supervisors or the gateway, so that no caller
// may set it. Known drivers append their own values of these names without looking, and a platform that refuses a
// name twice then refuses the sandbox. The whole prefix OPENSHELL_ is kept, TokenVariable included.
func ReservedEnvironment(name string) bool {
	switch name {
	case "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS":
		return true
	}
	return strings.HasPrefix(name, "OPENSHELL_")
}
