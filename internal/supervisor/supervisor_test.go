package supervisor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/supervisor"
	"sallyport.dev/sallyport/internal/supervisor/env"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

const (
	sandboxID = "2b1f7b0e-0f4e-4f0e-9a39-0d7d5a1f7c11"
	sftpFlag  = "serve-sftp"
)

// TestMain lets the test binary stand in for the supervisor's own program where it starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case sftpFlag:
			if err := supervisor.SFTP(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

// sandbox is a supervisor under test with its gateway.
type sandbox struct {
	gateway *gatewaytest.Gateway
	dir     string
	log     *lockedBuffer
	cancel  context.CancelFunc
	done    chan struct{}
	code    int
	err     error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a supervisor for the gateway with extra variables.
func start(tb testing.TB, g *gatewaytest.Gateway, extra map[string]string) *sandbox {
	tb.Helper()
	vars := map[string]string{
		"OPENSHELL_SANDBOX_ID": sandboxID, "OPENSHELL_SANDBOX": "box", "OPENSHELL_ENDPOINT": g.Endpoint(),
		"OPENSHELL_TLS_CA": g.CAFile(), "SALLYPORT_WORKDIR": tb.TempDir(), "PATH": os.Getenv("PATH"),
		"SALLYPORT_SANDBOX_ID": sandboxID, "OPENSHELL_LOG_LEVEL": "debug",
	}
	for k, v := range extra {
		vars[k] = v
	}
	c, err := env.Load(func(name string) string { return vars[name] })
	if err != nil {
		tb.Fatalf("load: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &sandbox{gateway: g, dir: c.Workdir, log: &lockedBuffer{}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.code, s.err = supervisor.Run(ctx, supervisor.Options{
			Config: c, Output: s.log, SFTP: []string{"/proc/self/exe", sftpFlag},
		})
	}()
	tb.Cleanup(func() {
		s.stop(tb)
		if tb.Failed() {
			tb.Logf("supervisor's log:\n%s", s.log)
		}
	})
	return s
}

func (s *sandbox) stop(tb testing.TB) {
	tb.Helper()
	s.cancel()
	select {
	case <-s.done:
		if s.err != nil {
			tb.Errorf("supervisor: %v", s.err)
		}
	case <-time.After(10 * time.Second):
		tb.Error("supervisor did not end")
	}
}

// execResult is what a command on an exec channel left.
type execResult struct {
	out, err bytes.Buffer
	code     int32
	failed   string
}

func openExec(tb testing.TB, session *gatewaytest.Session, start *sallyportpb.ExecStart) *gatewaytest.Relay {
	tb.Helper()
	r, err := session.Open(&openshellpb.RelayOpen{ServiceId: execchannel.ServiceID})
	if err != nil {
		tb.Fatalf("open exec channel: %v", err)
	}
	raw, err := proto.Marshal(start)
	if err != nil {
		tb.Fatalf("marshal: %v", err)
	}
	if err := r.Send(execchannel.Encode(execchannel.Start, raw)); err != nil {
		tb.Fatalf("send start: %v", err)
	}
	return r
}

// collect reads an exec channel to its end.
func collect(tb testing.TB, r *gatewaytest.Relay) *execResult {
	tb.Helper()
	defer r.Close()
	res := &execResult{code: -1}
	for {
		data, err := r.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				tb.Fatalf("receive: %v", err)
			}
			return res
		}
		f, err := execchannel.Decode(data)
		if err != nil {
			tb.Fatalf("decode: %v", err)
		}
		if res.code != -1 {
			tb.Fatalf("frame of type %d after exit", f.Type)
		}
		switch f.Type {
		case execchannel.Stdout:
			res.out.Write(f.Payload)
		case execchannel.Stderr:
			res.err.Write(f.Payload)
		case execchannel.Exit:
			if res.code, err = f.ExitCode(); err != nil {
				tb.Fatalf("exit: %v", err)
			}
		case execchannel.Failed:
			res.failed = string(f.Payload)
		}
	}
}

func shell(line string) *sallyportpb.ExecStart { return &sallyportpb.ExecStart{Shell: line} }

func sendAll(tb testing.TB, r *gatewaytest.Relay, frames ...[]byte) {
	tb.Helper()
	for _, f := range frames {
		if err := r.Send(f); err != nil {
			tb.Fatalf("send: %v", err)
		}
	}
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

func randomText(tb testing.TB, n int) string {
	tb.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatalf("random: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func jwt(expires time.Time, mark string) string {
	claims, _ := json.Marshal(map[string]any{"exp": expires.Unix(), "mark": mark})
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
}
