// Package settings owns the runtime settings: the registry of their names and types, their values for all sandboxes, and
// which value holds where both everybody and one sandbox have one. It owns the policy of all sandboxes too, which is
// kept with the global values. What a sandbox was told for itself is stored with the sandbox, by whoever owns
// sandboxes; what a setting does is its consumers' affair.
package settings

import (
	"maps"
	"slices"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

// Type is the type of a setting's value, also of one that no setting has.
type Type string

// The types.
const (
	Bool   Type = "Bool"
	String Type = "String"
	Int    Type = "Int"
	Bytes  Type = "Bytes"
)

// word is the type in messages.
func (t Type) word() string { return strings.ToLower(string(t)) }

// Setting is one registered key.
type Setting struct {
	Key  string
	Type Type
	// Values are all there are, of a setting that has only some; else nil.
	Values []string
}

// Reserved is the key that stands for the policy and is no setting.
const Reserved = "policy"

// Registry lists every setting of both 0.0.x generations, in the order in which errors name them. It returns a
// fresh slice.
func Registry() []Setting {
	return []Setting{
		{Key: "providers_v2_enabled", Type: Bool},
		{Key: "ocsf_json_enabled", Type: Bool},
		{Key: "agent_policy_proposals_enabled", Type: Bool},
		{Key: "proposal_approval_mode", Type: String, Values: []string{"manual", "auto"}},
	}
}

// Value is a setting's value. Only the field of its type counts.
type Value struct {
	Type Type   `json:"type"`
	Bool bool   `json:"bool,omitempty"`
	Text string `json:"text,omitempty"`
}

// Values are values by key.
type Values map[string]Value

// Scope is who gave a setting its value. The values are the wire's, see SettingScope of openshell.sandbox.v1.
type Scope int32

// The scopes.
const (
	ScopeNone    Scope = 0
	ScopeSandbox Scope = 1
	ScopeGlobal  Scope = 2
)

// Stable reasons of refused changes.
const (
	ReasonUnknown       = "SETTING_UNKNOWN"
	ReasonValue         = "SETTING_VALUE"
	ReasonValueRequired = "SETTING_VALUE_REQUIRED"
	ReasonReserved      = "SETTING_RESERVED"
	ReasonGlobal        = "SETTING_MANAGED_GLOBALLY"
)

// Check refuses a key that is not registered and a value that its setting cannot have. A value without a type is one
// that was not sent.
func Check(key string, v Value) error {
	if err := limits.Length("setting_key", key, limits.MaxMapKey); err != nil {
		return err
	}
	registry := Registry()
	i := slices.IndexFunc(registry, func(s Setting) bool { return s.Key == key })
	if i < 0 {
		keys := make([]string, len(registry))
		for i, s := range registry {
			keys[i] = s.Key
		}
		return fault.New(fault.InvalidArgument, ReasonUnknown, "unknown setting key '%s'. Allowed keys: %s",
			strings.ToValidUTF8(key, ""), strings.Join(keys, ", ")).WithNext("use one of the keys in the message")
	}
	return registry[i].check(v)
}

func (s Setting) check(v Value) error {
	switch {
	case v.Type == "":
		return fault.New(fault.InvalidArgument, ReasonValueRequired, "setting_value.value is required").
			WithNext("send a %s, or delete the setting", s.Type.word())
	case v.Type == Bytes && s.Type != Bytes:
		return fault.New(fault.InvalidArgument, ReasonValue, "setting '%s' expects %s value; bytes are not supported for this key",
			s.Key, s.Type.word()).WithNext("send a %s", s.Type.word())
	case v.Type != s.Type:
		return fault.New(fault.InvalidArgument, ReasonValue, "setting '%s' expects %s value", s.Key, s.Type.word()).
			WithNext("send a %s", s.Type.word())
	case s.Values == nil || slices.Contains(s.Values, v.Text):
		return nil
	}
	got := v.Text
	if len(got) > limits.MaxMapKey {
		got = got[:limits.MaxMapKey] + "..."
	}
	return fault.New(fault.InvalidArgument, ReasonValue, "setting '%s' expects one of [%s]; got '%s'",
		s.Key, strings.Join(s.Values, ", "), strings.ToValidUTF8(got, "")).WithNext("send one of the values in the message")
}

// Effective is what holds for a sandbox.
type Effective struct {
	Key string
	// Value counts unless Scope is ScopeNone.
	Value Value
	Scope Scope
}

// Merge returns what holds for a sandbox, for every registered setting in the order of the registry: the global value if
// there is one, else the sandbox's own, else none. Keys that are not registered are left out.
func Merge(global, own Values) []Effective {
	registry := Registry()
	out := make([]Effective, len(registry))
	for i, s := range registry {
		out[i] = Effective{Key: s.Key}
		if v, ok := global[s.Key]; ok {
			out[i].Value, out[i].Scope = v, ScopeGlobal
		} else if v, ok := own[s.Key]; ok {
			out[i].Value, out[i].Scope = v, ScopeSandbox
		}
	}
	return out
}

// With returns the values with one set, and whether that changes them.
func (v Values) With(key string, value Value) (next Values, changed bool) {
	if old, ok := v[key]; ok && old == value {
		return v, false
	}
	next = make(Values, len(v)+1)
	maps.Copy(next, v)
	next[key] = value
	return next, true
}

// Without returns the values without one, and whether it was there.
func (v Values) Without(key string) (next Values, existed bool) {
	if _, ok := v[key]; !ok {
		return v, false
	}
	next = maps.Clone(v)
	delete(next, key)
	return next, true
}
