package logpush_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
	"sallyport.dev/sallyport/internal/supervisor/logpush"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func push(tb testing.TB, p *logpush.Pusher, g *gatewaytest.Gateway) (stop func()) {
	tb.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(g.Endpoint(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- p.Run(ctx, openshellpb.NewOpenShellClient(conn), time.Second, slog.New(slog.DiscardHandler))
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		conn.Close()
	}
}

func TestDropsTheOldestAndSaysSo(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	p := logpush.New("box")
	log := slog.New(p.Handler(slog.LevelInfo))
	log.Debug("below the level")
	for i := range 1500 {
		log.Info("line", "n", i)
	}
	if p.Dropped() != 1500-1024 {
		t.Errorf("dropped = %d", p.Dropped())
	}
	push(t, p, g)()
	lines := g.Logs()
	if len(lines) != 1025 || lines[0].GetMessage() != "476 log lines were dropped" || lines[1].GetFields()["n"] != "476" || lines[1024].GetFields()["n"] != "1499" {
		t.Errorf("%d lines, first %v", len(lines), lines[:min(2, len(lines))])
	}
}

func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	p := logpush.New("box")
	log := slog.New(p.Handler(slog.LevelDebug)).With("with", 1).WithGroup("g").With("in", 2)
	many := make([]any, 0, 200)
	for i := range 100 {
		many = append(many, slog.String(fmt.Sprintf("k%d", i), strings.Repeat("€", 1000)))
	}
	log.Error(strings.Repeat("é", 9000), many...) //nolint:sloglint // The length is the point.
	log.Warn("plain", slog.Group("sub", "a", "b"))
	push(t, p, g)()
	lines := g.Logs()
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	l := lines[0]
	if len(l.GetMessage()) > 8<<10+2 || !utf8.ValidString(l.GetMessage()) || len(l.GetFields()) != 32 || l.GetLevel() != "ERROR" {
		t.Errorf("message of %d bytes, %d fields, level %s", len(l.GetMessage()), len(l.GetFields()), l.GetLevel())
	}
	if f := lines[1].GetFields(); f["with"] != "1" || f["g.in"] != "2" || f["g.sub.a"] != "b" || lines[1].GetLevel() != "WARN" {
		t.Errorf("fields = %v", f)
	}
}

func TestGoesOnAfterTheGatewayReturns(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	p := logpush.New("box")
	log := slog.New(p.Handler(slog.LevelInfo))
	stop := push(t, p, g)
	wait := func(text string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, l := range g.Logs() {
				if l.GetMessage() == text {
					return
				}
			}
			select {
			case <-deadline:
				t.Fatalf("%q did not arrive", text)
			case <-tick.C:
			}
		}
	}
	log.Info("before")
	wait("before")
	g.Stop()
	g.Start(t)
	log.Info("after")
	wait("after")
	stop()
}
