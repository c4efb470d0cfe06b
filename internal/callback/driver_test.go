package callback_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/callback"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/compute"
)

// process is a driver on a socket, which a test can end and start anew.
type process struct {
	computepb.UnimplementedComputeDriverServer
	wants []string
	err   error
}

func (p *process) GetGatewayListenerRequirements(
	context.Context, *computepb.GetGatewayListenerRequirementsRequest,
) (*computepb.GetGatewayListenerRequirementsResponse, error) {
	r := &computepb.GetGatewayListenerRequirementsResponse{}
	for _, w := range p.wants {
		r.Requirements = append(r.Requirements, &computepb.GatewayListenerRequirement{
			Reason: "test", Selector: &computepb.GatewayListenerRequirement_ExactBindAddress{ExactBindAddress: w},
		})
	}
	return r, p.err
}

func serveDriver(t *testing.T, socket string, p *process) (stop func()) {
	t.Helper()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	computepb.RegisterComputeDriverServer(server, p)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() { server.Stop(); serving.Wait() })
	t.Cleanup(stop)
	return stop
}

// TestDriverRestarts follows a real driver's lives, and a connection that a sandbox keeps through them.
func TestDriverRestarts(t *testing.T) {
	t.Parallel()
	const users = "/openshell.v1.OpenShell/ListSandboxes"
	for name, address := range map[string]string{"exact": own, "wildcard": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "c.sock")
			conn, err := driver.Dial(driver.Config{Name: "compute", Socket: socket, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			s := setup{address: address, driver: func(int) callback.Driver { return compute.New(conn, slog.New(slog.DiscardHandler)) }}
			g := start(t, s)
			stop := serveDriver(t, socket, &process{wants: []string{g.at(sandboxes), g.at("0.0.0.0"), sandboxes + ":1"}})
			if got := fmt.Sprint(g.wait(t)); got != "["+sandboxes+"]" {
				t.Fatalf("addresses %s", got)
			}
			box := g.dial(t, sandboxes)
			if err := call(box, users, "admin"); !refusedByScope(err) {
				t.Fatal(err)
			}
			// Without the driver the address stays.
			stop()
			if err := call(box, users, "admin"); !refusedByScope(err) {
				t.Fatal(err)
			}
			stop = serveDriver(t, socket, &process{wants: []string{g.at("127.0.0.3"), g.at(sandboxes)}})
			if got := fmt.Sprint(g.wait(t)); got != "["+sandboxes+" 127.0.0.3]" {
				t.Fatalf("addresses %s", got)
			}
			if err := call(g.dial(t, "127.0.0.3"), users, "admin"); !refusedByScope(err) {
				t.Fatal(err)
			}
			stop()
			serveDriver(t, socket, &process{err: status.Error(codes.Unimplemented, "an older driver")})
			if got := g.wait(t); len(got) != 0 {
				t.Fatalf("addresses %v of a driver that knows no such question", got)
			}
			// What nobody asked for is an ordinary address of a gateway on all of them; one that listened there alone
			// listens no more, and the old connection gains nothing by it.
			err = call(box, users, "admin")
			if address == "" && err != nil || address != "" && !refusedByScope(err) {
				t.Errorf("afterwards: %v", err)
			}
			if address != "" {
				if c, err := net.Dial("tcp", g.at(sandboxes)); err == nil {
					c.Close()
					t.Error("the address is still listened on")
				}
			}
			if log := g.notes.text(); !strings.Contains(log, "all addresses") || !strings.Contains(log, "port 1;") {
				t.Errorf("refusals are not in the log:\n%s", log)
			}
		})
	}
}
