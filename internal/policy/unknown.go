package policy

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// dropUnknown removes unknown fields at every depth: a hash must not depend on what only the sender knew.
func dropUnknown(m proto.Message) { dropIn(m.ProtoReflect()) }

func dropIn(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					dropIn(e.Message())
					return true
				})
			}
		case f.IsList():
			if f.Message() != nil {
				for i := range v.List().Len() {
					dropIn(v.List().Get(i).Message())
				}
			}
		case f.Message() != nil:
			dropIn(v.Message())
		}
		return true
	})
}
