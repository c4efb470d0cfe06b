//go:build linux

package driverkit_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// tracingDriver answers with what it saw of the trace.
type tracingDriver struct {
	computepb.UnimplementedComputeDriverServer
	log *slog.Logger
}

func (d *tracingDriver) GetCapabilities(ctx context.Context, _ *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	id, recorded := driverkit.TraceID(ctx)
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
	serveService(t, socket, d)
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

// serveService runs a driver until the test ends.
func serveService(t *testing.T, socket string, d computepb.ComputeDriverServer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: slog.New(slog.DiscardHandler)}, func(s *grpc.Server) {
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
