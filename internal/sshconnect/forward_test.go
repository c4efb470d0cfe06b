package sshconnect_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sshsession"
)

// forward is a stream of ForwardTcp as a connection.
type forward struct {
	net.Conn // deadlines, which nobody asks for
	stream   openshellpb.OpenShell_ForwardTcpClient
	end      context.CancelFunc
	rest     []byte
}

func (f *forward) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		frame, err := f.stream.Recv()
		if err != nil {
			return 0, err
		}
		if len(frame.GetData()) > 64<<10 {
			return 0, errors.New("a frame is too large")
		}
		f.rest = frame.GetData()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *forward) Write(p []byte) (int, error) {
	return len(p), f.stream.Send(&openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: bytes.Clone(p)}})
}

func (f *forward) RemoteAddr() net.Addr { return &net.TCPAddr{} }
func (f *forward) LocalAddr() net.Addr  { return &net.TCPAddr{} }

func (f *forward) Close() error {
	f.end()
	return nil
}

// forward opens a stream and sends the first frame.
func (r *rig) forward(subject string, init *openshellpb.TcpForwardInit) *forward {
	r.t.Helper()
	ctx, end := context.WithCancel(r.as(subject))
	r.t.Cleanup(end)
	stream, err := r.client.ForwardTcp(ctx)
	r.must(err)
	frame := &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Init{Init: init}}
	if init == nil {
		frame = &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: []byte("x")}}
	}
	if err := stream.Send(frame); err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
	return &forward{stream: stream, end: end}
}

func sshTarget() *openshellpb.TcpForwardInit_Ssh { return &openshellpb.TcpForwardInit_Ssh{} }

func tcpTarget(host string, port uint32) *openshellpb.TcpForwardInit_Tcp {
	return &openshellpb.TcpForwardInit_Tcp{Tcp: &openshellpb.TcpRelayTarget{Host: host, Port: port}}
}

// An SSH client talks through ForwardTcp, with a session's token and with its own credential alone.
func TestForwardToSSH(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tls: true})
	id := r.box("one", "alice")
	r.supervise(id)
	for name, token := range map[string]string{"token": r.session("alice", id).Token, "own credential": ""} {
		t.Run(name, func(t *testing.T) {
			client := handshake(t, r.forward("alice", &openshellpb.TcpForwardInit{
				SandboxId: id, Target: sshTarget(), AuthorizationToken: token, ServiceId: "ssh-proxy:" + id,
			}))
			load := make([]byte, 1<<20)
			rand.Read(load)
			if got := command(t, client, "cat", bytes.NewReader(load)); got != string(load) {
				t.Errorf("%d bytes came back, not what was sent", len(got))
			}
			client.Close()
			r.eventually("the place is given back", func() bool { return r.sessions.Connections() == 0 })
		})
	}
}

// The end of the caller's side keeps the answer flowing, and the end of the service's side ends the stream in order.
func TestForwardToAPort(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	r.supervise(id)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				head := make([]byte, 5)
				if _, err := io.ReadFull(conn, head); err == nil {
					_, _ = conn.Write(bytes.Repeat(head, 100_000))
				}
			}()
		}
	}()
	port := uint32(l.Addr().(*net.TCPAddr).Port)
	for _, host := range []string{"localhost", "127.0.0.1", ""} {
		f := r.forward("alice", &openshellpb.TcpForwardInit{SandboxId: id, Target: tcpTarget(host, port)})
		if _, err := f.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := f.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err != nil || string(got) != strings.Repeat("hello", 100_000) {
			t.Errorf("%q: %d bytes, %v", host, len(got), err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	closed := uint32(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	_, err = r.forward("alice", &openshellpb.TcpForwardInit{SandboxId: id, Target: tcpTarget("", closed)}).stream.Recv()
	want(t, err, codes.Unavailable, "connect to target")
	r.eventually("places are given back", func() bool { return r.sessions.Connections() == 0 && r.relays.Relays() == 0 })
}

func TestForwardRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{private: true})
	id, other, cold := r.box("one", "alice"), r.box("other", "alice"), r.box("cold", "alice")
	bobs := r.box("bobs", "bob")
	for _, box := range []string{id, other, bobs} {
		r.supervise(box)
	}
	token := r.session("alice", other).Token
	init := func(id string, change func(*openshellpb.TcpForwardInit)) *openshellpb.TcpForwardInit {
		i := &openshellpb.TcpForwardInit{SandboxId: id, Target: sshTarget()}
		if change != nil {
			change(i)
		}
		return i
	}
	to := func(host string, port uint32) func(*openshellpb.TcpForwardInit) {
		return func(i *openshellpb.TcpForwardInit) { i.Target = tcpTarget(host, port) }
	}
	with := func(token string) func(*openshellpb.TcpForwardInit) {
		return func(i *openshellpb.TcpForwardInit) { i.AuthorizationToken = token }
	}
	for name, c := range map[string]struct {
		init *openshellpb.TcpForwardInit
		code codes.Code
		text string
	}{
		"data first":                      {nil, codes.InvalidArgument, "first TcpForwardFrame must be init"},
		"no sandbox":                      {init("", nil), codes.InvalidArgument, "sandbox_id is required"},
		"no target":                       {init(id, func(i *openshellpb.TcpForwardInit) { i.Target = nil }), codes.InvalidArgument, "target is required"},
		"not loopback":                    {init(id, to("192.0.2.1", 80)), codes.InvalidArgument, "loopback"},
		"a name":                          {init(id, to("example.com", 80)), codes.InvalidArgument, "loopback"},
		"a zone":                          {init(id, to("::1%eth0", 80)), codes.InvalidArgument, "loopback"},
		"port 0":                          {init(id, to("localhost", 0)), codes.InvalidArgument, "port"},
		"port 65536":                      {init(id, to("localhost", 65536)), codes.InvalidArgument, "port"},
		"another's sandbox":               {init(bobs, nil), codes.NotFound, "sandbox not found"},
		"another's sandbox, wrong target": {init(bobs, to("example.com", 0)), codes.NotFound, "sandbox not found"},
		"no such sandbox":                 {init("absent", nil), codes.NotFound, "sandbox not found"},
		"not ready":                       {init(cold, nil), codes.FailedPrecondition, "sandbox is not ready"},
		"unknown token":                   {init(id, with("x")), codes.Unauthenticated, "SSH session token not found"},
		"token of another sandbox":        {init(id, with(token)), codes.Unauthenticated, "SSH session token is not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.forward("alice", c.init).stream.Recv()
			want(t, err, c.code, c.text)
		})
	}
}

// A token serves its own user alone, also where another may use the sandbox.
func TestForwardWithTheTokenOfAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	r.supervise(id)
	token := r.session("alice", id).Token
	_, err := r.forward("bob", &openshellpb.TcpForwardInit{SandboxId: id, Target: sshTarget(), AuthorizationToken: token}).stream.Recv()
	want(t, err, codes.Unauthenticated, "SSH session token is not valid")
}

func TestWhatEndsForwarding(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cut  func(r *rig, id, token string)
		code codes.Code
		text string
	}{
		"session revoked": {func(r *rig, _, token string) {
			_, err := r.client.RevokeSshSession(r.as("alice"), &openshellpb.RevokeSshSessionRequest{Token: token})
			r.must(err)
		}, codes.Unauthenticated, "SSH session token was revoked"},
		"session expired": {func(r *rig, _, _ string) { r.ahead.Store(int64(sshsession.DefaultTTL)) }, codes.Unauthenticated, "SSH session token expired"},
		"user revoked": {func(r *rig, _, _ string) {
			_, _, err := r.revoked.Revoke(r.t.Context(), user("root"), revocation.Revocation{Issuer: idp, Subject: "alice"})
			r.must(err)
		}, codes.Unauthenticated, "revoked"},
		"no member any more": {func(r *rig, _, _ string) {
			r.must(r.leave("alice"))
		}, codes.NotFound, "sandbox not found"},
		"supervisor gone": {func(r *rig, id, _ string) { r.relays.Disconnect(id, "test") }, codes.Unavailable, "supervisor session disconnected"},
		"init again":      {nil, codes.InvalidArgument, "frames after init must be data"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{scheme: authz.Workspaces})
			r.join("alice")
			id := r.box("one", "alice")
			r.supervise(id)
			token := r.session("alice", id).Token
			init := &openshellpb.TcpForwardInit{SandboxId: id, Target: sshTarget(), AuthorizationToken: token}
			f := r.forward("alice", init)
			if _, err := io.ReadFull(f, make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			if c.cut != nil {
				c.cut(r, id, token)
			} else if err := f.stream.Send(&openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Init{Init: proto.CloneOf(init)}}); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, f)
				ended <- err
			}()
			select {
			case err := <-ended:
				want(t, err, c.code, c.text)
			case <-time.After(20 * time.Second):
				t.Fatal("the connection stands")
			}
			r.eventually("the place is given back", func() bool { return r.sessions.Connections() == 0 && r.relays.Relays() == 0 })
		})
	}
}

// Who does not read what comes cannot keep a connection that has to end.
func TestEndsWhoeverDoesNotRead(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(r *rig, id, token string) net.Conn{
		"connect": func(r *rig, id, token string) net.Conn { return r.open(id, token) },
		"forward": func(r *rig, id, token string) net.Conn {
			return r.forward("alice", &openshellpb.TcpForwardInit{SandboxId: id, Target: sshTarget(), AuthorizationToken: token})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{})
			id := r.box("one", "alice")
			r.supervise(id)
			token := r.session("alice", id).Token
			stalled := &stall{Conn: open(r, id, token), full: make(chan struct{}), over: make(chan struct{})}
			client := handshake(t, stalled)
			t.Cleanup(func() { close(stalled.over) })
			s, err := client.NewSession()
			r.must(err)
			r.must(s.Start("yes"))
			stalled.stop.Store(true)
			<-stalled.full
			_, err = r.client.RevokeSshSession(r.as("alice"), &openshellpb.RevokeSshSessionRequest{Token: token})
			r.must(err)
			r.eventually("the place is given back", func() bool { return r.sessions.Connections() == 0 && r.relays.Relays() == 0 })
		})
	}
}

// stall is a connection that is no longer read once stop is set.
type stall struct {
	net.Conn
	stop atomic.Bool
	once sync.Once
	full chan struct{}
	over chan struct{}
}

func (s *stall) Read(p []byte) (int, error) {
	if s.stop.Load() {
		s.once.Do(func() { close(s.full) })
		<-s.over
		return 0, io.EOF
	}
	return s.Conn.Read(p)
}
