package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// queue is a net.Listener that is fed with connections accepted elsewhere.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), done: make(chan struct{})} }

func (q *queue) put(ctx context.Context, c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// handedOver are gRPC transport credentials for connections whose handshake is already done.
type handedOver struct{}

var errServerOnly = errors.New("listener: these credentials are for servers")

func (handedOver) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errServerOnly
}

func (handedOver) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	switch c := conn.(type) {
	case *tls.Conn:
		return &sealed{Conn: conn}, sealedInfoOf(brakeOf(c.NetConn()), credentials.TLSInfo{State: c.ConnectionState()}), nil
	case *piped:
		return conn, bridgeInfo{bridge: c.bridge}, nil
	}
	return conn, plainInfoOf(brakeOf(conn)), nil
}

func (handedOver) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "handed over"}
}

func (h handedOver) Clone() credentials.TransportCredentials { return h }

func (handedOver) OverrideServerName(string) error { return nil }
