package relay_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"sallyport.dev/sallyport/internal/relay"
)

func TestStatsCountWhatHappened(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	s := supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, echo(r, "a"))
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(bytes.Repeat([]byte("x"), 1000)); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Recv(); err != nil || len(got) != 1000 {
		t.Fatalf("%d %v", len(got), err)
	}
	c.Close()
	c.Close()
	open, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	s.End("supervisor connection lost")
	<-open.Done()
	got := r.Stats()
	if got.SessionsOpened != 1 || got.SessionsEnded[relay.SessionLost] != 1 || got.RelaysOpened != 2 ||
		got.RelaysEnded[relay.RelayClosed] != 1 || got.RelaysEnded[relay.RelaySessionEnded] != 1 ||
		got.Sent != 1000 || got.Received != 1000 || got.Waiting != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestSessionEndsByReason(t *testing.T) {
	t.Parallel()
	for want, end := range map[relay.SessionEnd]func(*relay.Registry, *relay.Session){
		relay.SessionClosed:       func(_ *relay.Registry, s *relay.Session) { s.End("supervisor closed its stream") },
		relay.SessionLost:         func(_ *relay.Registry, s *relay.Session) { s.End("supervisor connection lost") },
		relay.SessionDisconnected: func(r *relay.Registry, _ *relay.Session) { r.Disconnect("a", "sandbox deleted") },
		relay.SessionShutdown:     func(r *relay.Registry, _ *relay.Session) { r.Close("stopping") },
		relay.SessionSuperseded: func(r *relay.Registry, _ *relay.Session) {
			next, err := r.Connect(context.Background(), relay.Hello{SandboxID: "a", Takeover: true}, func(relay.Message) error { return nil }, func() {})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				next.End("done")
				next.Wait()
			})
		},
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			r := relay.NewRegistry(&log{})
			s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(relay.Message) error { return nil }, func() {})
			if err != nil {
				t.Fatal(err)
			}
			end(r, s)
			<-s.Done()
			s.Wait()
			if got := r.Stats().SessionsEnded; got[want] != 1 {
				t.Errorf("got %v, want one %s", got, want)
			}
		})
	}
}

func TestOpeningIsTraced(t *testing.T) {
	t.Parallel()
	r := relay.NewRegistry(&log{})
	var ended []error
	r.Trace(func(_ context.Context, sandboxID string) func(error) {
		if sandboxID != "a" {
			t.Errorf("traced %q", sandboxID)
		}
		return func(err error) { ended = append(ended, err) }
	})
	supervisor(t, r, relay.Hello{SandboxID: "a", Takeover: true}, echo(r, "a"))
	c, err := r.Open(t.Context(), "a", relay.Target{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	gone, cancel := context.WithCancelCause(t.Context())
	s, err := r.Session(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	s.End("done")
	cancel(errors.New("gone"))
	if _, err := s.Open(gone, relay.Target{}); err == nil || len(ended) != 2 || ended[0] != nil || ended[1] == nil {
		t.Errorf("got %v and %v", err, ended)
	}
}
