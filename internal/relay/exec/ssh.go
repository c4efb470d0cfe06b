package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
)

// sshKey is the place of the SSH connection among what a session has attached.
type sshKey struct{}

// sshLink keeps one SSH connection a session, since a handshake for every command costs more than the command.
type sshLink struct {
	mu     sync.Mutex
	client *ssh.Client
}

// handshakeTimeout bounds the SSH handshake with a supervisor.
const handshakeTimeout = 10 * time.Second

func (l *sshLink) session(ctx context.Context, s *relay.Session) (*ssh.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		if sess, err := l.client.NewSession(); err == nil {
			return sess, nil
		}
		_ = l.client.Close()
		l.client = nil
	}
	client, err := dialSSH(ctx, s)
	if err != nil {
		return nil, err
	}
	l.client = client
	sess, err := client.NewSession()
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "SSH_SESSION_FAILED", "supervisor refused an SSH session").WithNext("retry")
	}
	return sess, nil
}

// dialSSH opens a relay and speaks SSH over it. The host key is not checked: the relay already belongs to the
// sandbox that proved its identity, and the key is made afresh at each start of the supervisor.
func dialSSH(ctx context.Context, s *relay.Session) (*ssh.Client, error) {
	ch, err := s.Open(ctx, relay.Target{})
	if err != nil {
		return nil, err
	}
	timer := time.AfterFunc(handshakeTimeout, func() { ch.Close() })
	defer timer.Stop()
	conn, channels, requests, err := ssh.NewClientConn(ch.Conn(), "sandbox", &ssh.ClientConfig{
		User:            "sandbox",
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err != nil {
		ch.Close()
		return nil, fault.Wrap(err, fault.Unavailable, "SSH_HANDSHAKE_FAILED", "supervisor relay failed: SSH handshake").WithNext("retry")
	}
	return ssh.NewClient(conn, channels, requests), nil
}

func runSSH(ctx context.Context, s *relay.Session, req Request, sink Sink) (int32, error) {
	line, err := CommandLine(req.Workdir, req.Environment, req.Command)
	if err != nil {
		return 0, err
	}
	link, ok := s.Attach(sshKey{}, func() any { return &sshLink{} }).(*sshLink)
	if !ok {
		return 0, fault.New(fault.Internal, "INTERNAL", "internal error")
	}
	sess, err := link.session(ctx, s)
	if err != nil {
		return 0, err
	}
	defer sess.Close()
	if req.TTY {
		if err := sess.RequestPty("xterm-256color", int(req.Rows), int(req.Cols), ssh.TerminalModes{}); err != nil {
			return 0, fault.Wrap(err, fault.Unavailable, "SSH_PTY_REFUSED", "supervisor refused a terminal")
		}
	}
	stdin, err := sess.StdinPipe()
	if err != nil {
		return 0, err
	}
	sess.Stdout, sess.Stderr = writer(sink.Stdout), writer(sink.Stderr)
	if err := sess.Start(line); err != nil {
		return 0, fault.Wrap(err, fault.Unavailable, "SSH_EXEC_REFUSED", "supervisor refused the command")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = sess.Signal(ssh.SIGTERM)
		_ = sess.Close()
	})
	defer func() {
		stop()
		cancel()
	}()
	go feedSSH(ctx, sess, stdin, req)
	return exitCode(sess.Wait())
}

// feedSSH writes the input; it ends when the SSH session does.
func feedSSH(ctx context.Context, sess *ssh.Session, stdin io.WriteCloser, req Request) {
	defer stdin.Close()
	if _, err := stdin.Write(req.Stdin); err != nil || req.Input == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case in, ok := <-req.Input:
			if !ok {
				return
			}
			var err error
			if in.Resize {
				err = sess.WindowChange(int(in.Rows), int(in.Cols))
			} else {
				_, err = stdin.Write(in.Data)
			}
			if err != nil {
				return
			}
		}
	}
}

func exitCode(err error) (int32, error) {
	if err == nil {
		return 0, nil
	}
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		return int32(exit.ExitStatus()), nil
	}
	if _, ok := errors.AsType[*ssh.ExitMissingError](err); ok {
		return 0, noExitStatus()
	}
	return 0, fault.Wrap(fmt.Errorf("wait for command: %w", err), fault.Unavailable, "RELAY_BROKEN", "relay channel dropped").WithNext("retry")
}

// writer makes an io.Writer of a sink's method.
type writer func([]byte) error

func (w writer) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}
