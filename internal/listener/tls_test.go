package listener_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// speak connects, asks for something in HTTP/1.1 and returns the state of the connection and the answer's first bytes.
func speak(t *testing.T, addr string, c *tls.Config) (tls.ConnectionState, string) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, c)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState(), string(answer)
}

func TestAClientThatOffersNoProtocolGetsHTTP1(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr := serve(t, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}})
	for _, offered := range [][]string{nil, {"http/1.1"}} {
		state, answer := speak(t, addr, &tls.Config{RootCAs: a.pool, NextProtos: offered})
		if want := strings.Join(offered, ""); state.NegotiatedProtocol != want || answer != "HTTP/1.1 200" {
			t.Errorf("%q: protocol %q, answer %q", offered, state.NegotiatedProtocol, answer)
		}
	}
}

// What GetConfigForClient gives is used for connections that begin after it changed. It needs neither protocols nor a
// lowest version of its own.
func TestCertificatesChangeUnderThePort(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	var now atomic.Pointer[tls.Config]
	now.Store(&tls.Config{Certificates: []tls.Certificate{a.issue(t, "first")}})
	addr := serve(t, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if c := now.Load(); c != nil {
			return c, nil
		}
		return nil, errors.New("no certificate")
	}})
	creds := credentials.NewTLS(&tls.Config{RootCAs: a.pool})
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	client := openshellpb.NewOpenShellClient(cc)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// An open stream keeps its connection through the change.
	stream, err := client.RelayStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Health(t.Context(), &openshellpb.HealthRequest{}); err != nil {
		t.Fatal(err)
	}
	now.Store(&tls.Config{Certificates: []tls.Certificate{a.issue(t, "second")}})
	state, answer := speak(t, addr, &tls.Config{RootCAs: a.pool})
	if got := state.PeerCertificates[0].Subject.CommonName; got != "second" || answer != "HTTP/1.1 200" {
		t.Errorf("presented %q, answered %q", got, answer)
	}
	if got := health(t, addr, creds); got != "tls" {
		t.Errorf("gRPC arrived as %q", got)
	}
	if err := stream.Send(&openshellpb.RelayFrame{}); err != nil || cc.GetState().String() != "READY" {
		t.Errorf("the stream from before: %v, its connection is %v", err, cc.GetState())
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.pool, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	now.Store(nil)
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.pool}); err == nil {
		conn.Close()
		t.Error("a handshake without a certificate")
	}
}

// A client that comes back need not do a whole handshake, unless its authority is gone.
func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	certs := []tls.Certificate{a.issue(t, "server")}
	open := &tls.Config{Certificates: certs, ClientCAs: a.pool, ClientAuth: tls.VerifyClientCertIfGiven}
	closed := &tls.Config{Certificates: certs, ClientCAs: other.pool, ClientAuth: tls.VerifyClientCertIfGiven}
	var now atomic.Pointer[tls.Config]
	now.Store(open)
	for name, server := range map[string]*tls.Config{
		"fixed":   open,
		"changes": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil }},
	} {
		addr := serve(t, server)
		client := &tls.Config{
			RootCAs: a.pool, Certificates: []tls.Certificate{a.issue(t, "alice")}, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		}
		for i, want := range []bool{false, true} {
			if state, _ := speak(t, addr, client); state.DidResume != want {
				t.Errorf("%s: connection %d resumed: %v", name, i+1, state.DidResume)
			}
		}
		if name != "changes" {
			continue
		}
		now.Store(closed)
		conn, err := tls.Dial("tcp", addr, client)
		if err == nil {
			// The server's refusal arrives with the first read.
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			t.Errorf("a client whose authority is gone: %v", err)
		}
	}
}
