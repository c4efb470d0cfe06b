package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/forward"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway gives back in upper case what is sent to a port, if the session is one of its own and has room.
type gateway struct {
	openshellpb.UnimplementedOpenShellServer
	mu   sync.Mutex
	made int
	uses map[string]int
	most int
	gone bool
}

func (g *gateway) CreateSshSession(context.Context, *openshellpb.CreateSshSessionRequest) (*openshellpb.CreateSshSessionResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made++
	token := fmt.Sprintf("token-%d", g.made)
	g.uses[token] = 0
	return &openshellpb.CreateSshSessionResponse{Token: token}, nil
}

func (g *gateway) RevokeSshSession(_ context.Context, r *openshellpb.RevokeSshSessionRequest) (*openshellpb.RevokeSshSessionResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.uses, r.GetToken())
	return &openshellpb.RevokeSshSessionResponse{Revoked: true}, nil
}

func (g *gateway) enter(token string, by int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.uses[token]; !ok {
		return status.Error(codes.Unauthenticated, "SSH session token not found")
	}
	if g.gone {
		return status.Error(codes.NotFound, "sandbox not found")
	}
	g.uses[token] += by
	g.most = max(g.most, g.uses[token])
	return nil
}

func (g *gateway) ForwardTcp(stream openshellpb.OpenShell_ForwardTcpServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	init := first.GetInit()
	if init.GetSandboxId() != "box" || init.GetTcp().GetHost() != "127.0.0.1" {
		return status.Error(codes.InvalidArgument, "target is required")
	}
	if err := g.enter(init.GetAuthorizationToken(), 1); err != nil {
		return err
	}
	defer func() { _ = g.enter(init.GetAuthorizationToken(), -1) }()
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.Send(&openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: []byte(" end")}})
		}
		if err != nil {
			return err
		}
		text := strings.ToUpper(string(frame.GetData()))
		if strings.HasPrefix(text, "BREAK") {
			return status.Error(codes.Unavailable, "connection refused")
		}
		if err := stream.Send(&openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: []byte(text)}}); err != nil {
			return err
		}
	}
}

// rig is a forward to such a gateway.
type rig struct {
	*gateway
	address string
	failed  chan error
	ended   chan error
	stop    context.CancelFunc
}

func start(t *testing.T) *rig {
	t.Helper()
	g := &gateway{uses: map[string]int{}}
	server := grpc.NewServer()
	openshellpb.RegisterOpenShellServer(server, g)
	listen := func() net.Listener {
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	at := listen()
	go func() { _ = server.Serve(at) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(at.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := &rig{gateway: g, failed: make(chan error, 100), ended: make(chan error, 1)}
	f := &forward.Forward{
		Shell: openshellpb.NewOpenShellClient(conn), Target: forward.Target{SandboxID: "box", Host: "127.0.0.1", Port: 80},
		Failed: func(err error) { r.failed <- err },
	}
	local := listen()
	r.address = local.Addr().String()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(t.Context())
	t.Cleanup(r.stop)
	go func() { r.ended <- f.Serve(ctx, local) }()
	return r
}

func (r *rig) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("%T", conn)
	}
	t.Cleanup(func() { conn.Close() })
	return tcp
}

// ask sends words and reads until the other side has ended.
func ask(t *testing.T, conn *net.TCPConn, words string) string {
	t.Helper()
	_, _ = conn.Write([]byte(words))
	// The other side may have ended already.
	_ = conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("read: %v", err)
	}
	return string(got)
}

func TestForward(t *testing.T) {
	t.Parallel()
	r := start(t)
	// Eight at a time need three sessions, which later connections use again.
	for range 2 {
		conns := make([]*net.TCPConn, 8)
		for i := range conns {
			conns[i] = r.dial(t)
			if _, err := conns[i].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			one := make([]byte, 1)
			if _, err := io.ReadFull(conns[i], one); err != nil || one[0] != 'X' {
				t.Fatalf("%q, %v", one, err)
			}
		}
		for _, c := range conns {
			if got := ask(t, c, "hello"); got != "HELLO end" {
				t.Errorf("got %q", got)
			}
		}
	}
	r.mu.Lock()
	made, most := r.made, r.most
	r.mu.Unlock()
	// The gateway may notice later than the client that a connection has ended.
	if made > 6 || most > 3*2 {
		t.Errorf("%d sessions, %d connections on one", made, most)
	}
	if got := ask(t, r.dial(t), "break"); got != "" {
		t.Errorf("a broken connection brought %q", got)
	}
	if err := <-r.failed; status.Code(err) != codes.Unavailable {
		t.Errorf("told %v", err)
	}
	// A session that the gateway has forgotten costs one connection.
	r.mu.Lock()
	clear(r.uses)
	r.mu.Unlock()
	for got := ""; got != "AGAIN end"; {
		got = ask(t, r.dial(t), "again")
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("a forward that was ended: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.uses) > 0 {
		t.Errorf("sessions are left: %v", r.uses)
	}
}

func TestForwardEndsWithItsSandbox(t *testing.T) {
	t.Parallel()
	r := start(t)
	open := r.dial(t)
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	ask(t, r.dial(t), "anybody there")
	if err := <-r.ended; status.Code(err) != codes.NotFound {
		t.Errorf("ended with %v", err)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	s := forward.State{Dir: filepath.Join(t.TempDir(), "forwards")}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("nothing yet: %v, %v", all, err)
	}
	e := forward.Entry{PID: os.Getpid(), Sandbox: "box", Bind: "127.0.0.1", Port: 8080, TargetPort: 80}
	release, err := s.Claim(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(t.Context(), e); fault.From(err).Reason != forward.ReasonTaken {
		t.Errorf("a second claim: %v", err)
	}
	other := e
	other.Bind, other.Port = "::1", 8079
	forget, err := s.Claim(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Bind != "::1" || !all[1].Running || all[1].TargetPort != 80 {
		t.Errorf("List = %+v, %v", all, err)
	}
	if err := errors.Join(release(), forget()); err != nil {
		t.Error(err)
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("after the end: %v, %v", all, err)
	}
	// What a process left that was killed is told apart, and forgotten on demand.
	if err := os.WriteFile(filepath.Join(s.Dir, "127.0.0.1-9.json"), []byte(`{"bind":"127.0.0.1","port":9,"pid":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err = s.List()
	if err != nil || len(all) != 1 || all[0].Running {
		t.Errorf("a dead one: %+v, %v", all, err)
	}
	if err := s.Forget(all[0]); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "127.0.0.1-9.json"), []byte(`{"bind":"127.0.0.1","port":10}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(); fault.From(err).Reason != forward.ReasonState {
		t.Errorf("a file that lies: %v", err)
	}
}
