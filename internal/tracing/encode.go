package tracing

import (
	"errors"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the fields that are written, as opentelemetry/proto/collector/trace/v1 and what it imports have them.
const (
	fieldResourceSpans = 1 // ExportTraceServiceRequest
	fieldResource      = 1 // ResourceSpans
	fieldScopeSpans    = 2
	fieldAttributes    = 1 // Resource
	fieldScope         = 1 // ScopeSpans
	fieldSpans         = 2
	fieldScopeName     = 1 // InstrumentationScope
	fieldScopeVersion  = 2
	fieldKey           = 1 // KeyValue
	fieldValue         = 2
	fieldString        = 1 // AnyValue
	fieldInt           = 3
	fieldTraceID       = 1 // Span
	fieldSpanID        = 2
	fieldParent        = 4
	fieldName          = 5
	fieldKind          = 6
	fieldStart         = 7
	fieldEnd           = 8
	fieldSpanAttribute = 9
	fieldStatus        = 15
	fieldFlags         = 16
	fieldMessage       = 2 // Status
	fieldCode          = 3

	statusError = 2
	flagSampled = 1
	// flagKnown says that flagRemote tells whether the parent is of another process.
	flagKnown  = 0x100
	flagRemote = 0x200
)

// resource encodes who sends: the Resource of every request.
func (c *Config) resource() []byte {
	var b []byte
	add := func(key, text string) {
		if text != "" {
			b = appendMessage(b, fieldAttributes, appendAttribute(nil, Attribute{Key: key, Text: text}))
		}
	}
	add("service.name", c.Service)
	add("service.version", c.Version)
	add("service.instance.id", c.Instance)
	for _, key := range slices.Sorted(maps.Keys(c.Attributes)) {
		if key != "service.name" && key != "service.version" && key != "service.instance.id" {
			add(key, c.Attributes[key])
		}
	}
	return b
}

// request encodes an ExportTraceServiceRequest.
func (c *Config) request(resource []byte, batch []*Span) []byte {
	var scope []byte
	scope = appendText(scope, fieldScopeName, "sallyport.dev/sallyport")
	scope = appendText(scope, fieldScopeVersion, c.Version)
	spans := appendMessage(nil, fieldScope, scope)
	for _, s := range batch {
		spans = appendMessage(spans, fieldSpans, s.encode())
	}
	all := appendMessage(nil, fieldResource, resource)
	all = appendMessage(all, fieldScopeSpans, spans)
	return appendMessage(nil, fieldResourceSpans, all)
}

func (s *Span) encode() []byte {
	b := appendMessage(nil, fieldTraceID, s.at.TraceID[:])
	b = appendMessage(b, fieldSpanID, s.at.SpanID[:])
	flags := uint32(flagSampled | flagKnown)
	if s.parent != [8]byte{} {
		b = appendMessage(b, fieldParent, s.parent[:])
		if s.remote {
			flags |= flagRemote
		}
	}
	b = appendText(b, fieldName, s.name)
	b = appendNumber(b, fieldKind, uint64(s.kind))
	b = protowire.AppendTag(b, fieldStart, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.began.UnixNano()))
	b = protowire.AppendTag(b, fieldEnd, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.end.UnixNano()))
	for _, a := range s.attributes {
		b = appendMessage(b, fieldSpanAttribute, appendAttribute(nil, a))
	}
	if s.failed {
		b = appendMessage(b, fieldStatus, appendNumber(appendText(nil, fieldMessage, s.message), fieldCode, statusError))
	}
	b = protowire.AppendTag(b, fieldFlags, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, flags)
}

func appendAttribute(b []byte, a Attribute) []byte {
	b = appendText(b, fieldKey, a.Key)
	if a.Text != "" {
		return appendMessage(b, fieldValue, appendText(nil, fieldString, a.Text))
	}
	return appendMessage(b, fieldValue, appendNumber(nil, fieldInt, uint64(a.Number)))
}

func appendMessage(b []byte, field protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), message)
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), text)
}

func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

var errAnswer = errors.New("the collector's answer cannot be read")

// rejectedIn reads how many spans a collector rejected out of its answer: partial_success.rejected_spans of an
// ExportTraceServiceResponse. Fields that are not known are passed over.
func rejectedIn(answer []byte) (int64, error) {
	var rejected int64
	err := eachField(answer, func(field protowire.Number, kind protowire.Type, value []byte) error {
		if field != 1 || kind != protowire.BytesType {
			return nil
		}
		partial, n := protowire.ConsumeBytes(value)
		if n < 0 {
			return errAnswer
		}
		return eachField(partial, func(field protowire.Number, kind protowire.Type, value []byte) error {
			if field != 1 || kind != protowire.VarintType {
				return nil
			}
			v, n := protowire.ConsumeVarint(value)
			if n < 0 {
				return errAnswer
			}
			rejected = int64(v)
			return nil
		})
	})
	return rejected, err
}

// eachField calls f with every field of a message and what follows its tag.
func eachField(message []byte, f func(protowire.Number, protowire.Type, []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errAnswer
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(field, kind, message)
		if size < 0 {
			return errAnswer
		}
		if err := f(field, kind, message[:size]); err != nil {
			return err
		}
		message = message[size:]
	}
	return nil
}
