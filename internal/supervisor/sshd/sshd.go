// Package sshd is the sandbox's SSH server: shells, commands, file transfer and forwarding to loopback, for
// whoever reaches it. Who that may be is decided before: a relay comes from the gateway, which has authenticated
// its caller, and the Unix socket belongs to the sandbox's own user. So it accepts every user name and key.
package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"sallyport.dev/sallyport/internal/supervisor/launch"
	"sallyport.dev/sallyport/internal/supervisor/process"
)

const (
	// handshakeTimeout bounds what a connection may cost before it is one.
	handshakeTimeout = 30 * time.Second
	// maxChannels bounds the sessions and forwardings of one connection.
	maxChannels = 64
	// killGrace is what a command has to end itself after its connection broke.
	killGrace = 2 * time.Second
)

// Starter starts commands; launch.Launcher is one.
type Starter interface {
	Start(c launch.Command) (*process.Process, error)
}

// Options is what a Server needs.
type Options struct {
	Starter Starter
	// SFTP is the command that serves the sftp subsystem on its standard input and output; empty switches it off.
	SFTP []string
	// Forward returns the address to dial for a direct-tcpip channel, or why it is refused.
	Forward func(host string, port uint32) (string, error)
	Log     *slog.Logger
}

// Server serves SSH connections.
type Server struct {
	o      Options
	config *ssh.ServerConfig
}

// New returns a server with a fresh host key, which lives as long as the process.
func New(o Options) (*Server, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make host key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("make host key: %w", err)
	}
	config := &ssh.ServerConfig{
		NoClientAuth:      true,
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
		ServerVersion:     "SSH-2.0-Sallyport",
	}
	config.AddHostKey(signer)
	return &Server{o: o, config: config}, nil
}

// ServeConn serves one connection until it or ctx ends, and its commands with it.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	late := time.AfterFunc(handshakeTimeout, func() { nc.Close() })
	conn, channels, requests, err := ssh.NewServerConn(nc, s.config)
	late.Stop()
	if err != nil {
		return fmt.Errorf("ssh handshake: %w", err)
	}
	defer conn.Close()
	var group sync.WaitGroup
	group.Go(func() { answerGlobal(requests) })
	slots := make(chan struct{}, maxChannels)
	for ch := range channels {
		select {
		case slots <- struct{}{}:
		default:
			// A failed answer means that the connection is gone.
			_ = ch.Reject(ssh.ResourceShortage, "too many channels on one connection")
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			s.serveChannel(ctx, ch)
		})
	}
	cancel()
	group.Wait()
	if err := conn.Wait(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("ssh connection: %w", err)
	}
	return nil
}

// answerGlobal says yes to keepalives and no to everything else.
func answerGlobal(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(r.Type == "keepalive@openssh.com", nil)
		}
	}
}

func (s *Server) serveChannel(ctx context.Context, ch ssh.NewChannel) {
	switch ch.ChannelType() {
	case "session":
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		(&sessionChannel{server: s, channel: c}).serve(requests)
	case "direct-tcpip":
		s.forward(ctx, ch)
	default:
		_ = ch.Reject(ssh.UnknownChannelType, "unsupported channel type")
	}
}
