// Package computetest is the suite that every compute driver must pass, whatever its platform: it talks to a
// running driver over its socket and checks what gateways rely on. It knows nothing of any driver's inside.
package computetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Driver is a running driver under test.
type Driver struct {
	// Socket is the path it serves on.
	Socket string
	// Restart kills the driver and starts another one on the same state and socket; nil declares that the
	// driver keeps nothing of its own to lose.
	Restart func(testing.TB)
	// NoLifecycle declares that the driver does not implement StopSandbox and StartSandbox.
	NoLifecycle bool
	// Timeout bounds each wait; 0 means 30 s.
	Timeout time.Duration
}

// passing are the reasons for which gateways take a sandbox that is not ready as on its way.
var passing = []string{
	"reconcilererror", "dependenciesnotready", "starting", "containerstarting", "healthcheckstarting", "inspectfailed",
	"supervisornotconnected", "containercreated", "resuming", "containerrestarting", "supervisorrestarting",
}

// Run runs the suite; newDriver starts a fresh driver for each of its parts.
func Run(t *testing.T, newDriver func(*testing.T) Driver) {
	t.Helper()
	parts := []struct {
		name string
		run  func(*testing.T, *client)
	}{
		{"Capabilities", capabilities},
		{"Validate", validate},
		{"CreateUntilReady", createUntilReady},
		{"CreateTwice", createTwice},
		{"GetAbsent", getAbsent},
		{"List", list},
		{"Delete", deletes},
		{"DeleteAbsent", deleteAbsent},
		{"DeleteTwiceAtOnce", deleteTwiceAtOnce},
		{"CreateAgainAfterDelete", createAgain},
		{"WatchBeginsWithSnapshots", watchSnapshots},
		{"WatchTellsChanges", watchChanges},
		{"SlowWatcher", slowWatcher},
		{"StopAndStart", stopAndStart},
		{"Restart", restart},
		{"KillStorm", killStorm},
		{"CreateOfSameName", createSameName},
		{"StopWhileStarting", stopWhileStarting},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			d := newDriver(t)
			p.run(t, connect(t, d))
		})
	}
}

type client struct {
	computepb.ComputeDriverClient
	driver Driver
}

func connect(t *testing.T, d Driver) *client {
	t.Helper()
	if d.Timeout == 0 {
		d.Timeout = 30 * time.Second
	}
	conn, err := grpc.NewClient("unix:"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatalf("connect to driver: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close connection: %v", err)
		}
	})
	return &client{ComputeDriverClient: computepb.NewComputeDriverClient(conn), driver: d}
}

func (c *client) context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.driver.Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Sandbox returns a sandbox with an id and a name of its own that asks for nothing special.
func Sandbox() *computepb.DriverSandbox {
	var b [16]byte
	rand.Read(b[:]) // never fails
	h := hex.EncodeToString(b[:])
	return &computepb.DriverSandbox{
		Id:   fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:]),
		Name: "conformance-" + h[:6],
		Spec: &computepb.DriverSandboxSpec{
			Environment: map[string]string{"CONFORMANCE": "1"},
			Template:    &computepb.DriverSandboxTemplate{},
		},
		Workspace: "default",
	}
}

// create creates a sandbox as a gateway does, with the driver's own default image, and sees to its end.
func (c *client) create(t *testing.T) *computepb.DriverSandbox {
	t.Helper()
	sb := c.prepared(t)
	if _, err := c.CreateSandbox(c.context(t), &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
		t.Fatalf("CreateSandbox: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), c.driver.Timeout)
		defer cancel()
		if _, err := c.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()}); err != nil {
			t.Errorf("DeleteSandbox at the end: %v", err)
		}
	})
	return sb
}

func (c *client) prepared(t *testing.T) *computepb.DriverSandbox {
	t.Helper()
	got, err := c.GetCapabilities(c.context(t), &computepb.GetCapabilitiesRequest{})
	if err != nil {
		t.Fatalf("GetCapabilities: %v", err)
	}
	sb := Sandbox()
	sb.GetSpec().GetTemplate().Image = got.GetDefaultImage()
	return sb
}

func (c *client) get(t *testing.T, sb *computepb.DriverSandbox) (*computepb.DriverSandbox, error) {
	t.Helper()
	resp, err := c.GetSandbox(c.context(t), &computepb.GetSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
	if err != nil {
		return nil, err
	}
	if got := resp.GetSandbox(); got.GetId() != sb.GetId() || got.GetName() != sb.GetName() {
		t.Fatalf("GetSandbox answered with %s %q, asked for %s %q", got.GetId(), got.GetName(), sb.GetId(), sb.GetName())
	}
	return resp.GetSandbox(), nil
}

func (c *client) delete(t *testing.T, sb *computepb.DriverSandbox) bool {
	t.Helper()
	resp, err := c.DeleteSandbox(c.context(t), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
	if err != nil {
		t.Fatalf("DeleteSandbox: %v", err)
	}
	return resp.GetDeleted()
}

// phase is what gateways make of a snapshot.
func phase(sb *computepb.DriverSandbox) string {
	if sb.GetStatus().GetDeleting() {
		return "deleting"
	}
	found := "provisioning"
	for _, cond := range slices.Backward(sb.GetStatus().GetConditions()) {
		on := strings.EqualFold(cond.GetStatus(), "true")
		switch {
		case strings.EqualFold(cond.GetType(), "Suspended") && on:
			return "stopped"
		case cond.GetType() == "Ready" && on:
			found = "ready"
		case cond.GetType() == "Ready" && strings.EqualFold(cond.GetStatus(), "false"):
			found = "error"
			if slices.Contains(passing, strings.ToLower(cond.GetReason())) {
				found = "provisioning"
			}
		}
	}
	return found
}

// await polls until the sandbox has the phase; "absent" waits until there is none.
func (c *client) await(t *testing.T, sb *computepb.DriverSandbox, want string) {
	t.Helper()
	ctx := c.context(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := c.get(t, sb)
		now := "absent"
		switch {
		case err == nil:
			now = phase(got)
		case status.Code(err) != codes.NotFound:
			t.Fatalf("GetSandbox: %v", err)
		}
		if now == want {
			return
		}
		if now == "error" && want == "ready" {
			t.Fatalf("sandbox failed: %v", got.GetStatus())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("sandbox is %s, want %s: %v", now, want, got.GetStatus())
		}
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}
