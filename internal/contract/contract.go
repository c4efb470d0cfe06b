// Package contract states a protobuf contract as plain facts, one a line, and compares such facts with
// tables kept as text. It owns the table format and the comparison; it must not know a service, a
// transport or what any message means.
package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"sallyport.dev/sallyport/gen/v00/optionspb"
)

// Root is the package under which everything has to be in a table. Our own extensions live elsewhere.
const Root = "openshell"

// elements are the package elements by which a dialect's files are kept apart from those of the 0.0.x
// line where both use one name on the wire: "mvp" for the credentials driver of the mvp generation,
// "g01" for the 0.1.x line.
var elements = []string{"mvp", "g01"}

// Kind says what a fact is about.
type Kind string

// The kinds of facts a table holds.
const (
	KindMethod Kind = "method"
	KindField  Kind = "field"
	KindEnum   Kind = "enum"
)

// Fact is one statement about the wire: a method, a field of a message or a value of an enum.
type Fact struct {
	// Key tells facts apart; a contract has one fact a key.
	Key
	// Tag is the field's tag or the enum value's number; "-" for a method, "0" for a message without fields.
	Tag string
	// Type is a field's type with its cardinality, a method's "request -> response", "-" for an enum value.
	Type string
	// Detail is a field's oneof or a method's authorization rule as "key=value;..." sorted by key, "-" if none.
	Detail string
}

// Key names what a fact is about.
type Key struct {
	Kind Kind
	// Owner is the full name of the message or enum, or the path of a method as HTTP/2 carries it.
	Owner string
	// Name is the field's or value's name, "-" for a method and for a message without fields.
	Name string
}

// String renders the key as one readable word group.
func (k Key) String() string {
	if k.Name == none {
		return fmt.Sprintf("%s %s", k.Kind, k.Owner)
	}
	return fmt.Sprintf("%s %s.%s", k.Kind, k.Owner, k.Name)
}

// none fills a column that does not apply.
const none = "-"

// Files is a set of proto files, such as a registry.
type Files interface {
	RangeFiles(func(protoreflect.FileDescriptor) bool)
}

// FactsOf returns the facts of the files under Root, sorted by key. With an element it looks only at
// packages that carry it and leaves it out of every name; without one it passes over packages that carry
// the element of another dialect.
func FactsOf(files Files, element string) []Fact {
	c := collector{element: element}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if c.wants(file.Package()) {
			c.services(file.Services())
			c.messages(file.Messages())
			c.enums(file.Enums())
		}
		return true
	})
	slices.SortFunc(c.facts, compareFacts)
	return c.facts
}

type collector struct {
	element string
	facts   []Fact
}

func (c *collector) wants(pkg protoreflect.FullName) bool {
	parts := strings.Split(string(pkg), ".")
	if parts[0] != Root {
		return false
	}
	if c.element != "" {
		return slices.Contains(parts, c.element)
	}
	return !slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(elements, part) })
}

func (c *collector) add(kind Kind, owner, name, tag, typ, detail string) {
	c.facts = append(c.facts, Fact{Key: Key{Kind: kind, Owner: owner, Name: name}, Tag: tag, Type: typ, Detail: detail})
}

// wireName is the name peers know.
func (c *collector) wireName(d protoreflect.Descriptor) string {
	if c.element == "" {
		return string(d.FullName())
	}
	return strings.Replace(string(d.FullName()), "."+c.element+".", ".", 1)
}

func (c *collector) services(services protoreflect.ServiceDescriptors) {
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			path := "/" + c.wireName(services.Get(i)) + "/" + string(m.Name())
			c.add(KindMethod, path, none, none, c.side(m.IsStreamingClient(), m.Input())+" -> "+c.side(m.IsStreamingServer(), m.Output()), rule(m))
		}
	}
}

func (c *collector) side(stream bool, message protoreflect.MessageDescriptor) string {
	if stream {
		return "stream " + c.wireName(message)
	}
	return c.wireName(message)
}

// rule renders a method's authorization option.
func rule(m protoreflect.MethodDescriptor) string {
	options := m.Options()
	if !proto.HasExtension(options, optionspb.E_Authorization) {
		return none
	}
	auth, ok := proto.GetExtension(options, optionspb.E_Authorization).(*optionspb.AuthorizationRule)
	if !ok {
		return none
	}
	var pairs []string
	for _, pair := range []struct{ key, value string }{
		{"global_role", auth.GetGlobalRole()},
		{"mode", auth.GetAuthMode()},
		{"scope", auth.GetScope()},
		{"workspace_role", auth.GetWorkspaceRole()},
	} {
		if pair.value != "" {
			pairs = append(pairs, pair.key+"="+pair.value)
		}
	}
	return strings.Join(pairs, ";")
}

func (c *collector) messages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		m := messages.Get(i)
		if m.IsMapEntry() {
			continue
		}
		c.fields(m)
		c.messages(m.Messages())
		c.enums(m.Enums())
	}
}

func (c *collector) fields(m protoreflect.MessageDescriptor) {
	owner, fields := c.wireName(m), m.Fields()
	if fields.Len() == 0 {
		c.add(KindField, owner, none, "0", "empty", none)
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		oneof := none
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			oneof = string(o.Name())
		}
		c.add(KindField, owner, string(f.Name()), strconv.Itoa(int(f.Number())), c.fieldType(f), oneof)
	}
}

func (c *collector) fieldType(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s,%s>", c.valueType(f.MapKey()), c.valueType(f.MapValue()))
	case f.IsList():
		return "repeated " + c.valueType(f)
	case f.HasOptionalKeyword():
		return "optional " + c.valueType(f)
	default:
		return c.valueType(f)
	}
}

func (c *collector) valueType(f protoreflect.FieldDescriptor) string {
	if m := f.Message(); m != nil {
		return c.wireName(m)
	}
	if e := f.Enum(); e != nil {
		return c.wireName(e)
	}
	return f.Kind().String()
}

func (c *collector) enums(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		e := enums.Get(i)
		for j := range e.Values().Len() {
			v := e.Values().Get(j)
			c.add(KindEnum, c.wireName(e), string(v.Name()), strconv.Itoa(int(v.Number())), none, none)
		}
	}
}

func compareFacts(a, b Fact) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Name, b.Name))
}
