package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log records what the registry reports, in order.
type log struct {
	mu     sync.Mutex
	events []string
}

func (l *log) Connected(_ context.Context, id, _, instance string) { l.add("+" + id + "/" + instance) }

func (l *log) Disconnected(_ context.Context, id, _, reason string) {
	l.add("-" + id + ": " + reason)
}

func (l *log) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, s)
}

// pipe is one end of an in-memory wire.
type pipe struct {
	in, out chan []byte
	done    <-chan struct{}
}

func (p *pipe) Send(b []byte) error {
	select {
	case p.out <- append([]byte(nil), b...):
		return nil
	case <-p.done:
		return io.ErrClosedPipe
	}
}

func (p *pipe) Recv() ([]byte, error) {
	select {
	case b, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return b, nil
	case <-p.done:
		return nil, io.ErrClosedPipe
	}
}

func ignore(relay.Message) error { return nil }

// TestABlockedSendEndsWithTheSession has a supervisor that takes nothing: the session ends it by its stop.
func TestABlockedSendEndsWithTheSession(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	stopped, sending := make(chan struct{}), make(chan struct{})
	s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(relay.Message) error {
		close(sending)
		<-stopped
		return io.ErrClosedPipe
	}, func() { close(stopped) })
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := r.Open(t.Context(), "a", relay.Target{})
		opened <- err
	}()
	<-sending
	s.End("tired")
	s.Wait()
	if err := <-opened; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Open = %v", err)
	}
}

// supervisor connects a session and answers each Open with claim.
func supervisor(t *testing.T, r *relay.Registry, hello relay.Hello, claim func(relay.Open)) *relay.Session {
	t.Helper()
	s, err := r.Connect(t.Context(), hello, func(m relay.Message) error {
		if m.Open != nil && claim != nil {
			go claim(*m.Open)
		}
		return nil
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.End("test over")
		s.Wait()
	})
	return s
}

// echo claims a relay and sends back what it gets.
func echo(r *relay.Registry, owner string) func(relay.Open) {
	return func(o relay.Open) {
		toGateway, toBox, done := make(chan []byte), make(chan []byte), make(chan struct{})
		c, err := r.Claim(o.ChannelID, owner, &pipe{in: toGateway, out: toBox, done: done})
		if err != nil {
			return
		}
		defer close(done)
		for {
			select {
			case b := <-toBox:
				select {
				case toGateway <- b:
				case <-c.Done():
					return
				}
			case <-c.Done():
				return
			}
		}
	}
}

func TestRelayCarriesMessagesBothWays(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, echo(r, "a"))
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		want := fmt.Sprint("message ", i)
		if err := c.Send([]byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Recv(); err != nil || string(got) != want {
			t.Fatalf("Recv = %q, %v; want %q", got, err, want)
		}
	}
	if r.Relays() != 1 {
		t.Errorf("Relays = %d, want 1", r.Relays())
	}
	c.Close()
	if _, err := c.Recv(); err == nil {
		t.Error("Recv after Close succeeded")
	}
	if r.Relays() != 0 {
		t.Errorf("Relays after Close = %d, want 0", r.Relays())
	}
}

func TestClaimIsSingleUseAndBoundToTheSandbox(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	errs := make(chan error, 3)
	supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, func(o relay.Open) {
		w := &pipe{done: make(chan struct{})}
		_, foreign := r.Claim(o.ChannelID, "b", w)
		_, first := r.Claim(o.ChannelID, "a", w)
		_, second := r.Claim(o.ChannelID, "a", w)
		errs <- foreign
		errs <- first
		errs <- second
	})
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-errs; !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("claim by another sandbox: %v, want PermissionDenied and the entry left", err)
	}
	if err := <-errs; err != nil {
		t.Errorf("first claim: %v", err)
	}
	if err := <-errs; !fault.Is(err, fault.NotFound) {
		t.Errorf("second claim: %v, want NotFound", err)
	}
}

func TestSessionEndEndsItsRelays(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	s := supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, echo(r, "a"))
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	s.End("gone")
	<-c.Done()
	if _, err := c.Recv(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Recv on a dead session's relay: %v, want Unavailable", err)
	}
}

func TestSupersedingSession(t *testing.T) {
	t.Parallel()
	l := &log{}
	r := relay.NewRegistry(l)
	old := supervisor(t, r, relay.Hello{SandboxID: "a", InstanceID: "1", Takeover: true}, nil)
	if _, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", InstanceID: "x"}, ignore, func() {}); !fault.Is(err, fault.FailedPrecondition) {
		t.Fatalf("a session that may not take over: %v, want FailedPrecondition", err)
	}
	supervisor(t, r, relay.Hello{SandboxID: "a", InstanceID: "2", Takeover: true}, nil)
	<-old.Done()
	if instance, ok := r.Connected("a"); !ok || instance != "2" {
		t.Errorf("Connected = %q, %v; want the newer session", instance, ok)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e[0] == '-' {
			t.Errorf("the superseded session's end was reported: %s", e)
		}
	}
}

func TestPendingLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relay.NewRegistry(&log{})
		opened := make(chan string, relay.MaxPendingPerSandbox+1)
		s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(m relay.Message) error {
			if m.Open != nil {
				opened <- m.Open.ChannelID
			}
			return nil
		}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range relay.MaxPendingPerSandbox {
			wg.Go(func() { _, _ = r.Open(ctx, "a", relay.Target{}) })
		}
		synctest.Wait()
		began := time.Now()
		if _, err := r.Open(ctx, "a", relay.Target{}); !fault.Is(err, fault.ResourceExhausted) {
			t.Errorf("one relay past the limit: %v, want ResourceExhausted", err)
		}
		if took := time.Since(began); took != relay.PlaceTimeout {
			t.Errorf("refused after %s, want %s", took, relay.PlaceTimeout)
		}

		// A place that becomes free goes to who waits for one.
		wg.Go(func() { _, _ = r.Open(ctx, "a", relay.Target{}) })
		synctest.Wait()
		if len(opened) != relay.MaxPendingPerSandbox {
			t.Errorf("%d relays are offered, want %d", len(opened), relay.MaxPendingPerSandbox)
		}
		s.TargetFailed(<-opened, "no")
		synctest.Wait()
		if len(opened) != relay.MaxPendingPerSandbox {
			t.Errorf("after a place became free %d relays are offered, want %d", len(opened), relay.MaxPendingPerSandbox)
		}
		cancel()
		wg.Wait()
		if r.Relays() != 0 {
			t.Errorf("%d relays are left after their callers went", r.Relays())
		}
	})
}

func TestClaimTimeoutAndSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relay.NewRegistry(&log{})
		var beats atomic.Int64
		s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(m relay.Message) error {
			if m.Heartbeat {
				beats.Add(1)
			}
			return nil
		}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		beating, stop := context.WithCancel(t.Context())
		defer stop()
		go r.Beat(beating)
		start := time.Now()
		if _, err := r.Open(t.Context(), "a", relay.Target{}); !fault.Is(err, fault.DeadlineExceeded) {
			t.Errorf("unclaimed relay: %v, want DeadlineExceeded", err)
		}
		if took := time.Since(start); took != relay.ClaimTimeout {
			t.Errorf("gave up after %s, want %s", took, relay.ClaimTimeout)
		}
		<-s.Done()
		if took := time.Since(start); took <= relay.SilenceLimit || took > relay.SilenceLimit+relay.HeartbeatInterval {
			t.Errorf("silent session ended after %s, want just over %s", took, relay.SilenceLimit)
		}
		if beats.Load() != int64(relay.SilenceLimit/relay.HeartbeatInterval) {
			t.Errorf("%d heartbeats until then", beats.Load())
		}
	})
}

func TestWaitForSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relay.NewRegistry(&log{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Session(ctx, "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("no session: %v, want Unavailable", err)
		}
		got := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := r.Session(t.Context(), "a")
				got <- err
			}()
		}
		synctest.Wait()
		s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, ignore, func() {})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		s.End("done")
	})
}

func TestTargetFailureOnlyFromTheOwningSession(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	other := supervisor(t, r, relay.Hello{SandboxID: "b", Takeover: true}, nil)
	var own *relay.Session
	ready := make(chan struct{})
	own = supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, func(o relay.Open) {
		<-ready
		other.TargetFailed(o.ChannelID, "forged")
		own.TargetFailed(o.ChannelID, "connection refused")
	})
	close(ready)
	_, err := r.Open(t.Context(), "a", relay.Target{Host: "127.0.0.1", Port: 1})
	var f *fault.Error
	if !errors.As(err, &f) || f.Message != "connection refused" {
		t.Errorf("Open = %v, want the owning supervisor's words", err)
	}
}

func BenchmarkOpenClaim(b *testing.B) {
	r := relay.NewRegistry(&log{})
	s, err := r.Connect(b.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(m relay.Message) error {
		if m.Open != nil {
			_, _ = r.Claim(m.Open.ChannelID, "a", &pipe{})
		}
		return nil
	}, func() {})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		s.End("done")
		s.Wait()
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := r.Open(b.Context(), "a", relay.Target{})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func TestDrainWaitsForRelays(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	s := supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, echo(r, "a"))
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.Drain(t.Context(), "shutting down")
	}()
	if err := c.Send([]byte("still works")); err != nil {
		t.Error(err)
	}
	if _, err := c.Recv(); err != nil {
		t.Error(err)
	}
	c.Close()
	<-drained
	<-s.Done()
}
