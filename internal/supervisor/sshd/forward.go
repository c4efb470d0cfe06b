package sshd

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const dialTimeout = 5 * time.Second

// directTCP is the payload of a direct-tcpip channel.
type directTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// forward connects a channel to a loopback port of the sandbox. Answers that fail mean that the client has left.
func (s *Server) forward(ctx context.Context, ch ssh.NewChannel) {
	var d directTCP
	if err := ssh.Unmarshal(ch.ExtraData(), &d); err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, "malformed forwarding request")
		return
	}
	address, err := s.o.Forward(d.Host, d.Port)
	if err != nil {
		_ = ch.Reject(ssh.Prohibited, err.Error())
		return
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	local, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer local.Close()
	remote, requests, err := ch.Accept()
	if err != nil {
		return
	}
	defer remote.Close()
	stop := context.AfterFunc(ctx, func() { local.Close() })
	defer stop()
	var drained, down sync.WaitGroup
	drained.Go(func() { ssh.DiscardRequests(requests) })
	down.Go(func() {
		// Each direction ends by itself, and its end is passed on at once.
		_, err := io.Copy(local, remote)
		if half, ok := local.(*net.TCPConn); !ok || err != nil || half.CloseWrite() != nil {
			local.Close()
		}
	})
	if _, err := io.Copy(remote, local); err != nil {
		remote.Close()
	}
	_ = remote.CloseWrite()
	down.Wait()
	remote.Close()
	drained.Wait()
}
