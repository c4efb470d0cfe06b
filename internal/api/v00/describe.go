package v00

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxPart bounds each part of what Describe returns, in bytes.
const maxPart = 256

// defaultWorkspace is what an empty workspace means.
const defaultWorkspace = "default"

// Describe names what a request is about, for the audit log: "sandbox/default/name", "sandbox/<id>",
// "provider/default/name", "workspace/name" and so on; empty where a request names nothing. It reads only fields that
// hold names and ids, by an explicit list, so that no value of a credential, no command and no token gets out.
func Describe(method string, request any) string {
	message, ok := request.(proto.Message)
	if !ok {
		return ""
	}
	d := description{m: message.ProtoReflect(), method: method[strings.LastIndexByte(method, '/')+1:]}
	if !d.m.IsValid() {
		return ""
	}
	return d.target()
}

// description is a request whose target is looked for.
type description struct {
	m      protoreflect.Message
	method string
}

// target looks at the fields in the order in which they bind a request to an object.
func (d description) target() string {
	// The first message of a stream, and requests that wrap what they are about.
	for _, name := range [...]protoreflect.Name{"start", "init", "hello"} {
		if inner, ok := d.inner(name); ok {
			return description{inner, d.method}.target()
		}
	}
	if revocation, ok := d.inner("revocation"); ok {
		return description{revocation, d.method}.revoked()
	}
	if id := d.text("sandbox_id"); id != "" {
		return "sandbox/" + id
	}
	if name := d.first("sandbox_name", "sandbox"); name != "" {
		return d.placed("sandbox", name) + d.part("provider_name", "provider") + d.part("service", "service")
	}
	if name := d.text("route_name"); name != "" || strings.Contains(d.method, "Inference") {
		if name == "" {
			return ""
		}
		return d.placed("route", name)
	}
	switch {
	case strings.HasSuffix(d.method, "ProviderProfile"), strings.HasSuffix(d.method, "ProviderProfiles"):
		return d.profiles()
	case strings.Contains(d.method, "Provider"):
		return d.provider()
	case strings.HasSuffix(d.method, "WorkspaceMember"):
		return "workspace/" + d.workspace() + d.part("principal_subject", "member")
	case strings.HasSuffix(d.method, "Workspace"):
		return joined("workspace/", d.text("name"))
	case d.method == "Restore":
		return joined("revocation/", d.text("id"))
	case d.method == "RotateSandboxKeys", d.method == "UpdateConfig" && (d.text("name") == "" || d.set("global")):
		return "gateway"
	}
	if name := d.text("name"); name != "" {
		return d.placed("sandbox", name) + d.part("chunk_id", "chunk")
	}
	return ""
}

func (d description) provider() string {
	name := d.first("name", "provider", "provider_name")
	if p, ok := d.inner("provider"); ok {
		if metadata, ok := (description{p, d.method}).inner("metadata"); ok {
			name = description{metadata, d.method}.text("name")
		}
	}
	if name == "" {
		return ""
	}
	return d.placed("provider", name) + d.part("credential_key", "credential")
}

// profiles names one profile, or those that are imported together.
func (d description) profiles() string {
	if id := d.text("id"); id != "" {
		return d.placed("profile", id)
	}
	field := d.m.Descriptor().Fields().ByName("profiles")
	if field == nil || !field.IsList() || field.Message() == nil {
		return ""
	}
	items, ids := d.m.Get(field).List(), strings.Builder{}
	for i := range items.Len() {
		profile, ok := description{items.Get(i).Message(), d.method}.inner("profile")
		if !ok {
			continue
		}
		if ids.Len() > 0 {
			ids.WriteByte(',')
		}
		ids.WriteString(description{profile, d.method}.text("id"))
		if ids.Len() > maxPart {
			ids.WriteString(",…")
			break
		}
	}
	if ids.Len() == 0 {
		return ""
	}
	return d.placed("profile", ids.String())
}

// revoked names whom a revocation refuses, as audit records name actors.
func (d description) revoked() string {
	if id := d.text("sandbox_id"); id != "" {
		return "sandbox/" + id
	}
	if id := d.text("session_id"); id != "" {
		return "session/" + d.raw("issuer") + "|" + id
	}
	if subject := d.raw("subject"); subject != "" {
		return "user/" + d.raw("issuer") + "|" + subject
	}
	return ""
}

func (d description) placed(kind, name string) string { return kind + "/" + d.workspace() + "/" + name }

func (d description) workspace() string {
	if w := d.text("workspace"); w != "" {
		return w
	}
	return defaultWorkspace
}

// part is "/kind/value" of a field that narrows the target down, if it is set.
func (d description) part(field protoreflect.Name, kind string) string {
	return joined("/"+kind+"/", d.text(field))
}

// set tells whether a bool field is true.
func (d description) set(name protoreflect.Name) bool {
	field := d.m.Descriptor().Fields().ByName(name)
	return field != nil && field.Kind() == protoreflect.BoolKind && field.Cardinality() != protoreflect.Repeated && d.m.Get(field).Bool()
}

func joined(prefix, value string) string {
	if value == "" {
		return ""
	}
	return prefix + value
}

func (d description) first(names ...protoreflect.Name) string {
	for _, name := range names {
		if v := d.text(name); v != "" {
			return v
		}
	}
	return ""
}

// inner returns a set message field that is neither a list nor a map.
func (d description) inner(name protoreflect.Name) (protoreflect.Message, bool) {
	field := d.m.Descriptor().Fields().ByName(name)
	if field == nil || field.Message() == nil || field.Cardinality() == protoreflect.Repeated || !d.m.Has(field) {
		return nil, false
	}
	return d.m.Get(field).Message(), true
}

// text returns a string field as one part of a path: bounded, and with its slashes escaped.
func (d description) text(name protoreflect.Name) string {
	s := d.raw(name)
	if strings.ContainsAny(s, "/%") {
		s = strings.NewReplacer("%", "%25", "/", "%2F").Replace(s)
	}
	return s
}

// raw returns a string field without control characters, bounded.
func (d description) raw(name protoreflect.Name) string {
	field := d.m.Descriptor().Fields().ByName(name)
	if field == nil || field.Kind() != protoreflect.StringKind || field.Cardinality() == protoreflect.Repeated {
		return ""
	}
	s := d.m.Get(field).String()
	if len(s) > maxPart {
		cut := maxPart
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, s)
	}
	return s
}
