// Package settings owns the registry of runtime settings: their names, types and defaults. Values cannot be changed
// in this version, so every setting is unset and its consumers use their defaults.
package settings

// Type is the type of a setting's value.
type Type uint8

// The types.
const (
	Bool Type = iota
	String
)

// Setting is one registered key.
type Setting struct {
	Key  string
	Type Type
}

// Registry lists every setting of both 0.0.x generations, in the order in which errors name them. It returns a
// fresh slice.
func Registry() []Setting {
	return []Setting{
		{Key: "providers_v2_enabled", Type: Bool},
		{Key: "ocsf_json_enabled", Type: Bool},
		{Key: "agent_policy_proposals_enabled", Type: Bool},
		{Key: "proposal_approval_mode", Type: String},
	}
}
