package compute_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
)

// needy is a driver that answers one question alone.
type needy struct {
	computepb.UnimplementedComputeDriverServer
	answer func(context.Context) ([]*computepb.GatewayListenerRequirement, error)
}

func (n *needy) GetGatewayListenerRequirements(
	ctx context.Context, _ *computepb.GetGatewayListenerRequirementsRequest,
) (*computepb.GetGatewayListenerRequirementsResponse, error) {
	r, err := n.answer(ctx)
	return &computepb.GetGatewayListenerRequirementsResponse{Requirements: r}, err
}

// live serves a driver on the socket until the returned function ends it.
func live(t *testing.T, socket string, s computepb.ComputeDriverServer) (stop func()) {
	t.Helper()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	computepb.RegisterComputeDriverServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() { server.Stop(); serving.Wait() })
	t.Cleanup(stop)
	return stop
}

func reach(t *testing.T, socket string, timeout time.Duration) *compute.Client {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	conn, err := driver.Dial(driver.Config{Name: "compute", Socket: socket, Logger: logger, RPCTimeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return compute.New(conn, logger)
}

func exactBind(address, reason string) *computepb.GatewayListenerRequirement {
	return &computepb.GatewayListenerRequirement{
		Reason: reason, Selector: &computepb.GatewayListenerRequirement_ExactBindAddress{ExactBindAddress: address},
	}
}

func TestListenerRequirements(t *testing.T) {
	t.Parallel()
	many := func(n int) []*computepb.GatewayListenerRequirement {
		out := make([]*computepb.GatewayListenerRequirement, n)
		for i := range out {
			out[i] = exactBind("10.0.0.1:1", "")
		}
		return out
	}
	for name, c := range map[string]struct {
		answer []*computepb.GatewayListenerRequirement
		err    error
		want   []compute.Requirement
		count  int
		kind   fault.Kind
	}{
		"every place": {
			answer: []*computepb.GatewayListenerRequirement{
				exactBind("172.17.0.1:8080", "bridge"),
				{Selector: &computepb.GatewayListenerRequirement_DefaultRouteInterface{DefaultRouteInterface: &computepb.GatewayDefaultRouteInterfaceRequirement{}}},
				{Selector: &computepb.GatewayListenerRequirement_LoopbackInterface{LoopbackInterface: &computepb.GatewayLoopbackInterfaceRequirement{}}},
				{Reason: "of a later generation"},
			},
			want: []compute.Requirement{
				{Place: compute.ExactPlace, Address: "172.17.0.1:8080", Reason: "bridge"},
				{Place: compute.DefaultRoutePlace},
				{Place: compute.LoopbackPlace},
				{Reason: "of a later generation"},
			},
		},
		"long texts are cut": {
			answer: []*computepb.GatewayListenerRequirement{exactBind(strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20))},
			want:   []compute.Requirement{{Place: compute.ExactPlace, Address: strings.Repeat("a", 256), Reason: strings.Repeat("b", 256)}},
		},
		"older driver": {err: status.Error(codes.Unimplemented, "unknown method")},
		"nothing":      {want: []compute.Requirement{}},
		"as many as are read": {
			answer: many(1024), count: 1024,
		},
		"too many": {answer: many(1025), kind: fault.Internal},
		"refusal":  {err: status.Error(codes.Internal, "no"), kind: fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "c.sock")
			live(t, socket, &needy{answer: func(context.Context) ([]*computepb.GatewayListenerRequirement, error) { return c.answer, c.err }})
			got, err := reach(t, socket, time.Minute).ListenerRequirements(t.Context())
			if c.kind != fault.Unknown {
				if !fault.Is(err, c.kind) {
					t.Fatalf("%d requirements, %v", len(got), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.count > 0 {
				if len(got) != c.count {
					t.Errorf("%d requirements", len(got))
				}
				return
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListenerRequirementsOfADriverThatHangs(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "c.sock")
	live(t, socket, &needy{answer: func(ctx context.Context) ([]*computepb.GatewayListenerRequirement, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	got, err := reach(t, socket, 200*time.Millisecond).ListenerRequirements(t.Context())
	if got != nil || !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestConnectedTellsEachLife(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "c.sock")
	c := reach(t, socket, time.Minute)
	driverOf := &computepb.UnimplementedComputeDriverServer{}
	for life := range 3 {
		stop := live(t, socket, driverOf)
		seen, err := c.Connected(t.Context(), life)
		if err != nil || seen != life+1 {
			t.Fatalf("life %d: %d, %v", life, seen, err)
		}
		stop()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := c.Connected(ctx, 1000); !errors.Is(err, why) {
		t.Error(err)
	}
}
