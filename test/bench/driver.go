package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// driverCommand makes this program the compute driver.
const driverCommand = "serve-driver"

// driverSays is the line with which it tells that it serves.
const driverSays = "driver serving"

// serveDriver serves a compute driver that has every sandbox ready at once and does nothing else. It runs as a
// process of its own because it is neither client nor subject.
func serveDriver(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet(driverCommand, flag.ContinueOnError)
	socket := flags.String("socket", "", "path of the socket")
	seed := flags.String("seed", "", "file with the ids of sandboxes that are there, one a line")
	if err := flags.Parse(args); err != nil {
		return err
	}
	raw, err := os.ReadFile(*seed)
	if err != nil {
		return err
	}
	d := &instantDriver{boxes: map[string]*computepb.DriverSandbox{}, watchers: map[*watcher]struct{}{}}
	for id := range strings.FieldsSeq(string(raw)) {
		d.boxes[id] = readySandbox(id)
	}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	computepb.RegisterComputeDriverServer(server, d)
	defer context.AfterFunc(ctx, server.Stop)()
	fmt.Fprintln(out, driverSays)
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func readySandbox(id string) *computepb.DriverSandbox {
	return &computepb.DriverSandbox{Id: id, Status: &computepb.DriverSandboxStatus{
		Conditions: []*computepb.DriverCondition{{Type: "Ready", Status: "True"}},
	}}
}

type instantDriver struct {
	computepb.UnimplementedComputeDriverServer
	mu       sync.Mutex
	boxes    map[string]*computepb.DriverSandbox
	watchers map[*watcher]struct{}
}

// watcher keeps what its stream has not taken yet, so that a slow gateway does not hold back creates.
type watcher struct {
	queue []*computepb.WatchSandboxesEvent
	wake  chan struct{}
}

func (d *instantDriver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "bench", DriverVersion: "1", DefaultImage: "bench"}, nil
}

func (d *instantDriver) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

func (d *instantDriver) CreateSandbox(_ context.Context, r *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	id := r.GetSandbox().GetId()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.boxes[id] != nil {
		return nil, status.Error(codes.AlreadyExists, "sandbox exists")
	}
	d.boxes[id] = readySandbox(id)
	for w := range d.watchers {
		w.queue = append(w.queue, changed(d.boxes[id]))
		w.poke()
	}
	return &computepb.CreateSandboxResponse{}, nil
}

func (d *instantDriver) GetSandbox(_ context.Context, r *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.boxes[r.GetSandboxId()]; s != nil {
		return &computepb.GetSandboxResponse{Sandbox: s}, nil
	}
	return nil, status.Error(codes.NotFound, "no such sandbox")
}

func (d *instantDriver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &computepb.ListSandboxesResponse{Sandboxes: slices.Collect(maps.Values(d.boxes))}, nil
}

func (d *instantDriver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	d.mu.Lock()
	for _, s := range d.boxes {
		w.queue = append(w.queue, changed(s))
	}
	d.watchers[w] = struct{}{}
	d.mu.Unlock()
	w.poke()
	defer func() {
		d.mu.Lock()
		delete(d.watchers, w)
		d.mu.Unlock()
	}()
	for {
		select {
		case <-w.wake:
		case <-stream.Context().Done():
			return nil
		}
		d.mu.Lock()
		batch := w.queue
		w.queue = nil
		d.mu.Unlock()
		for _, e := range batch {
			if err := stream.Send(e); err != nil {
				return errors.Join(errors.New("send a watch event"), err)
			}
		}
	}
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func changed(s *computepb.DriverSandbox) *computepb.WatchSandboxesEvent {
	return &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Sandbox{
		Sandbox: &computepb.WatchSandboxesSandboxEvent{Sandbox: s},
	}}
}
