package computetest

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// The storm: so many callers create so many sandboxes each, and delete every other one, while the driver is killed at
// least so often.
const (
	stormCallers   = 4
	stormSandboxes = 3
	stormKills     = 4
	stormPause     = 400 * time.Millisecond
)

// killStorm kills the driver again and again while sandboxes are created and deleted. Callers do as gateways do: they
// repeat a call until it has an answer. In the end every sandbox is what its last call asked for.
func killStorm(t *testing.T, c *client) {
	if c.driver.Restart == nil {
		t.Log("the driver declares that it cannot be killed here")
		return
	}
	image := c.prepared(t).GetSpec().GetTemplate().GetImage()
	ctx, cancel := context.WithTimeout(t.Context(), 4*c.driver.Timeout)
	defer cancel()
	var mu sync.Mutex
	kept := make(map[string]*computepb.DriverSandbox)
	var callers sync.WaitGroup
	for range stormCallers {
		callers.Go(func() {
			for i := range stormSandboxes {
				sb := Sandbox()
				sb.GetSpec().GetTemplate().Image = image
				if !c.insist(ctx, t, "create", func() error {
					_, err := c.CreateSandbox(ctx, &computepb.CreateSandboxRequest{Sandbox: sb})
					return err
				}) {
					return
				}
				mu.Lock()
				kept[sb.GetId()] = sb
				mu.Unlock()
				if i%2 == 0 {
					continue
				}
				if !c.insist(ctx, t, "delete", func() error {
					_, err := c.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
					return err
				}) {
					return
				}
				mu.Lock()
				delete(kept, sb.GetId())
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		callers.Wait()
		close(done)
	}()
	for kills, quiet := 0, false; kills < stormKills || !quiet; kills++ {
		pause := time.NewTimer(rand.N(stormPause)) //nolint:gosec // any moment is as good
		select {
		case <-pause.C:
		case <-done:
			pause.Stop()
			quiet = true
		}
		c.driver.Restart(t)
	}
	c.settled(t, kept)
	for _, sb := range kept {
		c.delete(t, sb)
	}
	for _, sb := range kept {
		c.await(t, sb, "absent")
	}
}

// insist repeats a call while nobody knows what became of it.
func (c *client) insist(ctx context.Context, t *testing.T, what string, call func() error) bool {
	for {
		err := call()
		switch code := status.Code(err); code {
		case codes.OK, codes.AlreadyExists:
			return true
		case codes.Unavailable, codes.Canceled, codes.Internal, codes.Unknown:
			if ctx.Err() == nil {
				continue
			}
			fallthrough
		default:
			t.Errorf("%s in the storm: %v", what, err)
			return false
		}
	}
}

// settled waits until the driver lists exactly the sandboxes that were kept, and all are ready.
func (c *client) settled(t *testing.T, kept map[string]*computepb.DriverSandbox) {
	t.Helper()
	for _, sb := range kept {
		c.await(t, sb, "ready")
	}
	ctx := c.context(t)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := c.ListSandboxes(ctx, &computepb.ListSandboxesRequest{})
		if err != nil {
			t.Fatalf("ListSandboxes after the storm: %v", err)
		}
		listed := make([]string, 0, len(resp.GetSandboxes()))
		strange := false
		for _, sb := range resp.GetSandboxes() {
			listed = append(listed, sb.GetId())
			strange = strange || kept[sb.GetId()] == nil
		}
		slices.Sort(listed)
		if !strange && len(slices.Compact(listed)) == len(kept) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after the storm %d sandboxes are listed, %d were kept: %v", len(listed), len(kept), listed)
		}
	}
}
