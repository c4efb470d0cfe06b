package cli_test

import (
	"encoding/json"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestCheckPath(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// It speaks HTTP/2 and nothing else, as behind some proxies.
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	endpoint := "http://" + l.Addr().String()
	code, out, errs := command(t, endpoint, "gateway", "check-path", "--idle", "1ms,2ms")
	if code != 1 || !strings.Contains(out, "idle 1ms") || !strings.Contains(out, "the stream survived") || !strings.Contains(errs, "hint: http:") || !strings.Contains(errs, "this takes 2ms") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	code, out, errs = command(t, endpoint, "gateway", "check-path", "--idle", "1ms", "-o", "json")
	var report struct {
		Checks []struct{ Name, Status string }
		Idle   float64 `json:"longest_idle_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || len(report.Checks) != 8 || report.Idle != 0.001 || errs != "" {
		t.Errorf("%d %v\n%s%s", code, err, out, errs)
	}
	for _, args := range [][]string{{"--idle", "x"}, {"--idle", "-1s"}, {"--idle", strings.Repeat("1s,", 16) + "1s"}} {
		if code, _, errs := command(t, endpoint, append([]string{"gateway", "check-path"}, args...)...); code != 2 || errs == "" {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
}
