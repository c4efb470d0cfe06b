package tracing_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/tracecontext"
	"sallyport.dev/sallyport/internal/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is a real gRPC server that takes spans with the messages that OpenTelemetry publishes.
type collector struct {
	mu     sync.Mutex
	got    []*v1.ExportTraceServiceRequest
	header metadata.MD
	answer func(n int) (*v1.ExportTraceServiceResponse, error)
	calls  int
	came   chan struct{}
}

func (c *collector) export(ctx context.Context, r *v1.ExportTraceServiceRequest) (*v1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.header, _ = metadata.FromIncomingContext(ctx)
	answer, err := &v1.ExportTraceServiceResponse{}, error(nil)
	if c.answer != nil {
		answer, err = c.answer(c.calls)
	}
	if err == nil {
		c.got = append(c.got, r)
	}
	select {
	case c.came <- struct{}{}:
	default:
	}
	return answer, err
}

func (c *collector) spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*tracepb.Span
	for _, r := range c.got {
		for _, rs := range r.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				all = append(all, ss.Spans...)
			}
		}
	}
	return all
}

// serve starts a collector and returns its address.
func serve(t *testing.T, c *collector) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.came = make(chan struct{}, 1)
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			r := &v1.ExportTraceServiceRequest{}
			if err := decode(r); err != nil {
				return nil, err
			}
			return c.export(ctx, r)
		}}},
	}, c)
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		running.Wait()
	})
	return "http://" + l.Addr().String()
}

// run starts a tracer; stop has it send what is left.
func run(t *testing.T, c tracing.Config) (tracer *tracing.Tracer, stop func()) {
	t.Helper()
	c.Logger = slog.New(slog.DiscardHandler)
	tracer, err := tracing.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := tracer.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			running.Wait()
		})
	}
	t.Cleanup(stop)
	return tracer, stop
}

func TestSpansReachTheCollector(t *testing.T) {
	t.Parallel()
	c := &collector{}
	began := time.Now()
	tracer, stop := run(t, tracing.Config{
		Endpoint: serve(t, c), Service: "gw", Version: "1.2", Instance: "one", Delay: time.Hour,
		Attributes: map[string]string{"deployment.environment": "test", "service.name": "no"}, Headers: map[string]string{"x-key": "k"},
	})
	remote, _ := tracecontext.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	ctx, outer := tracer.Start(tracecontext.With(t.Context(), remote), "outer", tracing.Server, tracing.Attribute{Key: "a", Text: "b"})
	at, _ := tracecontext.From(ctx)
	_, inner := tracer.Under(ctx, "inner", tracing.Client)
	inner.Number("n", 7)
	inner.Fail("went wrong")
	inner.End()
	outer.End()
	stop()
	spans := c.spans()
	if len(spans) != 2 {
		t.Fatalf("got %d spans", len(spans))
	}
	in, out := spans[0], spans[1]
	if out.Name != "outer" || out.Kind != tracepb.Span_SPAN_KIND_SERVER || string(out.ParentSpanId) != string(remote.SpanID[:]) ||
		string(out.TraceId) != string(remote.TraceID[:]) || string(out.SpanId) != string(at.SpanID[:]) || out.Flags != 0x301 ||
		out.Attributes[0].Key != "a" || out.Attributes[0].Value.GetStringValue() != "b" || out.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("outer: %v", out)
	}
	if in.Name != "inner" || in.Kind != tracepb.Span_SPAN_KIND_CLIENT || string(in.ParentSpanId) != string(out.SpanId) || in.Flags != 0x101 ||
		in.Attributes[0].Value.GetIntValue() != 7 || in.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || in.Status.Message != "went wrong" {
		t.Errorf("inner: %v", in)
	}
	if start, end := time.Unix(0, int64(in.StartTimeUnixNano)), time.Unix(0, int64(in.EndTimeUnixNano)); start.Before(began) || end.Before(start) {
		t.Errorf("inner from %s to %s", start, end)
	}
	r := c.got[0].ResourceSpans[0]
	var resource []string
	for _, a := range r.Resource.Attributes {
		resource = append(resource, a.Key+"="+a.Value.GetStringValue())
	}
	if got := fmt.Sprint(resource); got != "[service.name=gw service.version=1.2 service.instance.id=one deployment.environment=test]" {
		t.Errorf("resource %s", got)
	}
	if r.ScopeSpans[0].Scope.Version != "1.2" || fmt.Sprint(c.header.Get("x-key")) != "[k]" {
		t.Errorf("scope %v, header %v", r.ScopeSpans[0].Scope, c.header)
	}
	if s := tracer.Stats(); s != (tracing.Stats{Exported: 2}) {
		t.Errorf("stats %+v", s)
	}
}

func TestACollectorThatIsAwayIsAskedAgain(t *testing.T) {
	t.Parallel()
	c := &collector{answer: func(n int) (*v1.ExportTraceServiceResponse, error) {
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "soon")
		}
		return &v1.ExportTraceServiceResponse{PartialSuccess: &v1.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "one is odd"}}, nil
	}}
	tracer, stop := run(t, tracing.Config{Endpoint: serve(t, c), Delay: time.Hour})
	for range 3 {
		_, s := tracer.Start(t.Context(), "x", tracing.Internal)
		s.End()
	}
	stop()
	if got := tracer.Stats(); got != (tracing.Stats{Exported: 2, Failed: 1}) || c.calls != 3 {
		t.Errorf("%+v after %d calls", got, c.calls)
	}
}

func TestRefusedSpansAreCountedAndNotSentAgain(t *testing.T) {
	t.Parallel()
	c := &collector{answer: func(int) (*v1.ExportTraceServiceResponse, error) {
		return nil, status.Error(codes.InvalidArgument, "no")
	}}
	tracer, stop := run(t, tracing.Config{Endpoint: serve(t, c), Delay: time.Hour})
	_, s := tracer.Start(t.Context(), "x", tracing.Internal)
	s.End()
	stop()
	if got := tracer.Stats(); got != (tracing.Stats{Failed: 1}) || c.calls != 1 {
		t.Errorf("%+v after %d calls", got, c.calls)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	// Nobody listens there, and nobody runs the tracer.
	tracer, err := tracing.New(tracing.Config{Endpoint: "http://127.0.0.1:1", MaxQueue: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	for range 25 {
		_, s := tracer.Start(t.Context(), "x", tracing.Internal)
		s.End()
	}
	if got := tracer.Stats(); got != (tracing.Stats{Dropped: 15}) {
		t.Errorf("%+v", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tracer, stop := run(t, tracing.Config{Endpoint: "http://127.0.0.1:1", Timeout: time.Millisecond})
	_, s := tracer.Start(ended, "x", tracing.Internal)
	s.End()
	stop()
	_, s = tracer.Start(t.Context(), "late", tracing.Internal)
	s.End()
	if got := tracer.Stats(); got != (tracing.Stats{Failed: 1, Dropped: 1}) {
		t.Errorf("after the end: %+v", got)
	}
}

func TestAFullBatchIsSentAtOnce(t *testing.T) {
	t.Parallel()
	c := &collector{}
	tracer, _ := run(t, tracing.Config{Endpoint: serve(t, c), Delay: time.Hour, MaxBatch: 4})
	for range 4 {
		_, s := tracer.Start(t.Context(), "x", tracing.Internal)
		s.End()
	}
	select {
	case <-c.came:
	case <-t.Context().Done():
	}
	if n := len(c.spans()); n != 4 {
		t.Errorf("got %d spans", n)
	}
}

func TestSamplers(t *testing.T) {
	t.Parallel()
	yes, _ := tracecontext.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	no, _ := tracecontext.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	for _, tc := range []struct {
		name  string
		ratio float64
		// of 1000 that begin here, of those below a recorded trace, below one that is not.
		least, most int
		yes, no     bool
	}{
		{"", 0, 1000, 1000, true, false},
		{"parentbased_always_on", 0, 1000, 1000, true, false},
		{"parentbased_always_off", 1, 0, 0, true, false},
		{"parentbased_traceidratio", 0.25, 150, 350, true, false},
		{"parentbased_traceidratio", 0, 0, 0, true, false},
		{"parentbased_traceidratio", 1, 1000, 1000, true, false},
		{"always_on", 0, 1000, 1000, true, true},
		{"always_off", 0, 0, 0, false, false},
	} {
		t.Run(fmt.Sprint(tc.name, tc.ratio), func(t *testing.T) {
			t.Parallel()
			sampler, err := tracing.NewSampler(tc.name, tc.ratio)
			if err != nil {
				t.Fatal(err)
			}
			tracer, err := tracing.New(tracing.Config{Endpoint: "http://127.0.0.1:1", Sampler: sampler})
			if err != nil {
				t.Fatal(err)
			}
			defer tracer.Close()
			recorded := 0
			for range 1000 {
				ctx, s := tracer.Start(t.Context(), "x", tracing.Internal)
				_, below := tracer.Start(ctx, "y", tracing.Internal)
				if (s == nil) != (below == nil) && tc.name != "traceidratio" {
					t.Fatal("a trace was recorded in part")
				}
				if s != nil {
					recorded++
				}
			}
			_, a := tracer.Start(tracecontext.With(t.Context(), yes), "x", tracing.Internal)
			_, b := tracer.Start(tracecontext.With(t.Context(), no), "x", tracing.Internal)
			if recorded < tc.least || recorded > tc.most || (a != nil) != tc.yes || (b != nil) != tc.no {
				t.Errorf("%d of 1000, %v, %v", recorded, a != nil, b != nil)
			}
		})
	}
	for name, ratio := range map[string]float64{"jaeger_remote": 1, "traceidratio": 1.5, "parentbased_traceidratio": -1} {
		if _, err := tracing.NewSampler(name, ratio); err == nil {
			t.Errorf("%s %v is a sampler", name, ratio)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"", "collector:4317", "unix:///x", "http://", "https://u:p@host", "http://%zz"} {
		if _, err := tracing.New(tracing.Config{Endpoint: endpoint}); err == nil {
			t.Errorf("%q is an endpoint", endpoint)
		}
	}
	if _, err := tracing.New(tracing.Config{Endpoint: "https://host", CAFile: "/nonexistent"}); err == nil {
		t.Error("authorities that are not there are accepted")
	}
}

func TestOffCostsNothing(t *testing.T) {
	var tracer *tracing.Tracer
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { off(ctx, tracer) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if tracer.Stats() != (tracing.Stats{}) || tracer.Run(ctx) != nil {
		t.Error("a tracer that is off does something")
	}
}

func off(ctx context.Context, tracer *tracing.Tracer) {
	ctx, s := tracer.Start(ctx, "x", tracing.Server)
	_, below := tracer.Under(ctx, "y", tracing.Client)
	below.Number("n", 1)
	below.Fail("x")
	below.End()
	s.Text("k", "v")
	s.End()
}

func BenchmarkOff(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		off(b.Context(), nil)
	}
}

func BenchmarkRecorded(b *testing.B) {
	tracer, err := tracing.New(tracing.Config{Endpoint: "http://127.0.0.1:1", MaxQueue: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer tracer.Close()
	b.ReportAllocs()
	for b.Loop() {
		off(b.Context(), tracer)
	}
}
