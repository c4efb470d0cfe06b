package gateway_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/tracecontext"
)

// collector is a real gRPC server that takes spans.
type collector struct {
	mu    sync.Mutex
	spans []*tracepb.Span
	came  chan struct{}
}

// collect starts a collector and returns the endpoint to configure.
func collect(t *testing.T) (*collector, string) {
	t.Helper()
	c := &collector{came: make(chan struct{}, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			r := &collectorpb.ExportTraceServiceRequest{}
			if err := decode(r); err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, rs := range r.ResourceSpans {
				for _, ss := range rs.ScopeSpans {
					c.spans = append(c.spans, ss.Spans...)
				}
			}
			select {
			case c.came <- struct{}{}:
			default:
			}
			return &collectorpb.ExportTraceServiceResponse{}, nil
		}}},
	}, c)
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		running.Wait()
	})
	return c, "http://" + l.Addr().String()
}

// await returns the spans of a trace by name, when all of these have come.
func (c *collector) await(t *testing.T, trace string, names ...string) map[string]*tracepb.Span {
	t.Helper()
	for {
		found := map[string]*tracepb.Span{}
		c.mu.Lock()
		for _, s := range c.spans {
			if hex.EncodeToString(s.TraceId) == trace {
				found[s.Name] = s
			}
		}
		c.mu.Unlock()
		if !slices.ContainsFunc(names, func(n string) bool { return found[n] == nil }) {
			return found
		}
		select {
		case <-c.came:
		case <-t.Context().Done():
			t.Fatalf("got %v, want %v", found, names)
		}
	}
}

func text(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func number(s *tracepb.Span, key string) int64 {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetIntValue()
		}
	}
	return -1
}

func TestATraceSpansTheDriverSocket(t *testing.T) {
	t.Parallel()
	c, endpoint := collect(t)
	s := startWith(t, map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "10"}, "--otlp-endpoint", endpoint)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(s.user(), "traceparent", "00-"+trace+"-b7ad6b7169203331-01", "x-request-id", "mine")
	if _, err := s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: "one", Spec: &openshellpb.SandboxSpec{}}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	spans := c.await(t, trace, "openshell.v1.OpenShell/CreateSandbox", "store commit", "openshell.compute.v1.ComputeDriver/CreateSandbox")
	call := spans["openshell.v1.OpenShell/CreateSandbox"]
	if call.Kind != tracepb.Span_SPAN_KIND_SERVER || hex.EncodeToString(call.ParentSpanId) != "b7ad6b7169203331" ||
		text(call, "sallyport.request_id") != "mine" || text(call, "rpc.method") != "CreateSandbox" || number(call, "rpc.grpc.status_code") != 0 {
		t.Errorf("the call: %v", call)
	}
	toDriver := spans["openshell.compute.v1.ComputeDriver/CreateSandbox"]
	if toDriver.Kind != tracepb.Span_SPAN_KIND_CLIENT || string(toDriver.ParentSpanId) != string(call.SpanId) || text(toDriver, "sallyport.driver") != "compute" {
		t.Errorf("the driver's call: %v", toDriver)
	}
	if string(spans["store commit"].ParentSpanId) != string(call.SpanId) {
		t.Errorf("the commit: %v", spans["store commit"])
	}
	s.driver.mu.Lock()
	if !slices.Equal(s.driver.traces, []string{trace}) {
		t.Errorf("the driver saw the traces %v", s.driver.traces)
	}
	s.driver.mu.Unlock()

	// What the caller's side does not record is not recorded here either; the driver is told so.
	const other = "00000000000000000000000000000001"
	ctx = metadata.AppendToOutgoingContext(s.user(), "traceparent", "00-"+other+"-b7ad6b7169203331-00")
	if _, err := s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: "two", Spec: &openshellpb.SandboxSpec{}}); err != nil {
		t.Fatal(err)
	}
	// A refusal that is the caller's fault is no error of the gateway.
	const third = "00000000000000000000000000000002"
	ctx = metadata.AppendToOutgoingContext(s.user(), "traceparent", "00-"+third+"-b7ad6b7169203331-01", "x-request-id", "no id")
	var trailer metadata.MD
	if _, err := s.client.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: "none"}, grpc.Trailer(&trailer)); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	missing := c.await(t, third, "openshell.v1.OpenShell/GetSandbox")["openshell.v1.OpenShell/GetSandbox"]
	if number(missing, "rpc.grpc.status_code") != 5 || missing.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET || !slices.Equal(trailer["x-request-id"], []string{text(missing, "sallyport.request_id")}) || trailer["x-request-id"][0] == "no id" {
		t.Errorf("the refusal: %v, answered as %v", missing, trailer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if hex.EncodeToString(span.TraceId) == other {
			t.Errorf("recorded although the caller's side does not: %v", span)
		}
	}
	if len(s.driver.traces) != 1 {
		t.Errorf("the driver saw the traces %v", s.driver.traces)
	}
}

func TestACollectorThatIsNoneStopsNothing(t *testing.T) {
	t.Parallel()
	s := start(t, "--otlp-endpoint", "https://collector.test:4317", "--otlp-ca", "/nonexistent")
	s.create("one")
}

func TestLogLinesCarryIds(t *testing.T) {
	t.Parallel()
	at, _ := tracecontext.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	ctx := tracecontext.With(t.Context(), at)
	var b bytes.Buffer
	gateway.NewLogger(&b, "json", slog.LevelInfo).With("k", "v").InfoContext(ctx, "hello", "request_id", "r")
	var line map[string]string
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["trace_id"] != at.Trace() || line["request_id"] != "r" || line["k"] != "v" {
		t.Errorf("%v %s", err, b.Bytes())
	}
	b.Reset()
	gateway.NewLogger(&b, "text", slog.LevelInfo).WithGroup("g").Info("hello")
	if !bytes.Contains(b.Bytes(), []byte("msg=hello")) || bytes.Contains(b.Bytes(), []byte("trace_id")) {
		t.Errorf("%s", b.Bytes())
	}
}
