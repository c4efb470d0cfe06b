package door_test

import (
	"context"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// BenchmarkRefusal measures what a call costs whose credential nobody knows, which is what an attacker sends.
func BenchmarkRefusal(b *testing.B) {
	h := open(b, nil)
	intercept, info := h.door.Unary(), &grpc.UnaryServerInfo{FullMethod: shell + "GetSandbox"}
	handler := func(context.Context, any) (any, error) { return nil, errors.New("reached") }
	token := h.idp.MintWith(h.idp.NewKey("nobody-knows", jose.ES256), nil, nil)
	ctx := metadata.NewIncomingContext(grpc.NewContextWithServerTransportStream(b.Context(), &transport{}), metadata.MD{
		"authorization": {"Bearer " + token},
	})
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		if _, err := intercept(ctx, nil, info, handler); err == nil {
			b.Fatal("let in")
		}
		h.observed.calls = h.observed.calls[:0]
	}
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
