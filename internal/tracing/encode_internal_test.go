package tracing

import (
	"testing"

	v1 "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// FuzzRejectedIn compares with the messages that OpenTelemetry publishes.
func FuzzRejectedIn(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x02, 0x08, 0x05})
	f.Add([]byte{0x0a, 0x04, 0x12, 0x02, 'n', 'o'})
	f.Add([]byte{0x0a, 0x02, 0x08, 0x05, 0x0a, 0x00})
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, answer []byte) {
		n, err := rejectedIn(answer)
		var want v1.ExportTraceServiceResponse
		if proto.Unmarshal(answer, &want) == nil && (err != nil || n != want.GetPartialSuccess().GetRejectedSpans()) {
			t.Fatalf("%d, %v; want %d", n, err, want.GetPartialSuccess().GetRejectedSpans())
		}
	})
}
