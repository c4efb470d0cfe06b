//go:build linux

package driverkit_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// tracingDriver answers with what it saw of the trace.
type tracingDriver struct {
	computepb.UnimplementedComputeDriverServer
	log  *slog.Logger
	fail bool
}

func (d *tracingDriver) GetCapabilities(ctx context.Context, _ *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	id, recorded := driverkit.TraceID(ctx)
	if d.fail {
		return nil, status.Error(codes.NotFound, "no")
	}
	d.log.InfoContext(ctx, "asked")
	name := "off"
	if recorded {
		name = "recorded"
	}
	return &computepb.GetCapabilitiesResponse{DriverName: name, DriverVersion: id, DefaultImage: driverkit.Traceparent(ctx)}, nil
}

func TestADriverSeesTheTrace(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	var lines syncBuffer
	d := &tracingDriver{log: slog.New(driverkit.LogHandler(slog.NewJSONHandler(&lines, nil))).With("k", "v").WithGroup("g")}
	serveService(t, socket, d, slog.New(slog.DiscardHandler))
	client := computepb.NewComputeDriverClient(dial(t, socket))
	const trace = "0af7651916cd43dd8448eb211c80319c"
	for parent, want := range map[string][3]string{
		"00-" + trace + "-b7ad6b7169203331-01": {"recorded", trace, "00-" + trace + "-b7ad6b7169203331-01"},
		"00-" + trace + "-b7ad6b7169203331-00": {"off", trace, "00-" + trace + "-b7ad6b7169203331-00"},
		"nonsense":                             {"off", "", ""},
		"":                                     {"off", "", ""},
	} {
		ctx := t.Context()
		if parent != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", parent)
		}
		got, err := client.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{}, grpc.WaitForReady(true))
		if err != nil || [3]string{got.DriverName, got.DriverVersion, got.DefaultImage} != want {
			t.Errorf("%q: %v %v", parent, got, err)
		}
	}
	lines.mu.Lock()
	defer lines.mu.Unlock()
	if n := strings.Count(lines.b.String(), trace); n != 2 || !bytes.Contains(lines.b.Bytes(), []byte(`"k":"v"`)) {
		t.Errorf("%d lines with the trace in\n%s", n, lines.b.String())
	}
}

func TestFailedCallsAreLoggedWithTheirTrace(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	var lines syncBuffer
	serveService(t, socket, &tracingDriver{fail: true}, slog.New(slog.NewTextHandler(&lines, nil)))
	client := computepb.NewComputeDriverClient(dial(t, socket))
	for _, flags := range []string{"00", "01"} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+flags)
		if _, err := client.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
	}
	lines.mu.Lock()
	defer lines.mu.Unlock()
	if text := lines.b.String(); strings.Count(text, "call failed") != 1 || !strings.Contains(text, "code=NotFound trace_id=0af7651916cd43dd8448eb211c80319c") {
		t.Errorf("%s", text)
	}
}

// serveService runs a driver until the test ends.
func serveService(t *testing.T, socket string, d computepb.ComputeDriverServer, logger *slog.Logger) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: logger}, func(s *grpc.Server) {
			computepb.RegisterComputeDriverServer(s, d)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
