package sessions_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/sessions"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
)

type recorder struct {
	mu      sync.Mutex
	records []audit.Record
}

func (r *recorder) Record(record audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
}

type counter struct{ connected, disconnected int }

func (c *counter) Connected(context.Context, string, string, string)    { c.connected++ }
func (c *counter) Disconnected(context.Context, string, string, string) { c.disconnected++ }

// TestSessionsOfARealRegistry opens, supersedes and ends sessions.
func TestSessionsOfARealRegistry(t *testing.T) {
	t.Parallel()
	log, next := &recorder{}, &counter{}
	now := time.Unix(1000, 0)
	registry := relay.NewRegistry(sessions.New(sessions.Config{
		Next: next, Recorder: log, Now: func() time.Time { now = now.Add(time.Second); return now },
		RequestID: func(context.Context) string { return "r-1" },
	}))
	ctx := principal.With(t.Context(), &principal.Principal{
		Kind: principal.Sandbox, SandboxID: "b", Source: principal.SourceToken, Tenant: "t",
	})
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5}})
	connect := func(instance string) *relay.Session {
		s, err := registry.Connect(ctx, relay.Hello{SandboxID: "b", InstanceID: instance, Takeover: true},
			func(relay.Message) error { return nil }, func() {})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := connect("i-1")
	second := connect("i-2")
	second.End("supervisor closed its stream")
	second.End("again")
	got := log.records
	actions := make([]string, len(got))
	for i, r := range got {
		actions[i] = r.Action
		if r.Actor != "sandbox/b" || r.ActorKind != "sandbox" || r.Target != "sandbox/b" || r.Verdict != audit.Allowed ||
			r.Remote != "192.0.2.1" || r.RequestID != "r-1" || r.Tenant != "t" {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(actions, []string{audit.ActionSessionOpen, audit.ActionSessionClose, audit.ActionSessionOpen, audit.ActionSessionClose}) {
		t.Fatalf("records: %v", actions)
	}
	if got[0].Details["session"] != first.ID || got[0].Details["instance"] != "i-1" || got[0].Details["source"] != principal.SourceToken {
		t.Errorf("opened: %v", got[0].Details)
	}
	if got[1].Details["session"] != first.ID || got[1].Details["reason"] != sessions.Superseded || got[1].Details["lasted"] != "2s" {
		t.Errorf("superseded: %v", got[1].Details)
	}
	if got[3].Details["session"] != second.ID || got[3].Details["reason"] != "supervisor closed its stream" {
		t.Errorf("ended: %v", got[3].Details)
	}
	if next.connected != 2 || next.disconnected != 1 {
		t.Errorf("passed on: %+v", *next)
	}
}
