package listener_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// How gRPC asks for reads that hold no buffer is not part of its public interface: a release that asks in another way
// would cost memory and nothing else, so the test looks at what the connection's reader waits in.
func TestIdleConnectionsHoldNoReadBuffer(t *testing.T) {
	a := newAuthority(t)
	for name, c := range map[string]struct {
		server *tls.Config
		client credentials.TransportCredentials
		want   string
	}{
		"plaintext": {nil, insecure.NewCredentials(), "listener.(*socket).ReadOnReady"},
		"TLS": {
			&tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}},
			credentials.NewTLS(&tls.Config{RootCAs: a.pool}), "listener.(*sealed).ReadOnReady",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cc, err := grpc.NewClient(serve(t, c.server), grpc.WithTransportCredentials(c.client))
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			if _, err := openshellpb.NewOpenShellClient(cc).Health(t.Context(), &openshellpb.HealthRequest{}); err != nil {
				t.Fatal(err)
			}
			stacks, deadline := make([]byte, 4<<20), time.Now().Add(10*time.Second)
			for !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), c.want) {
				if time.Now().After(deadline) {
					t.Fatalf("no goroutine waits in %s", c.want)
				}
				runtime.Gosched()
			}
		})
	}
}

// What a client begins with may arrive in any pieces.
func TestTheFirstBytesInPieces(t *testing.T) {
	t.Parallel()
	addr := serve(t, nil)
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, pieces := range [][]string{
		{"P", "RI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings},
		{"PR", "I", " * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings},
		{"P", "R", "I", " ", "* HTTP/2.0\r\n\r\nSM\r\n\r\n", settings},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if _, err := io.WriteString(conn, p); err != nil {
				t.Fatal(err)
			}
			// Lets the port read this piece alone; the outcome does not depend on it.
			runtime.Gosched()
		}
		// An HTTP/2 server answers with its own settings.
		header := make([]byte, 9)
		if _, err := io.ReadFull(conn, header); err != nil || header[3] != 4 {
			t.Errorf("%q: answered % x, %v", pieces, header, err)
		}
		conn.Close()
	}
	for _, pieces := range [][]string{{"P", "UT /healthz HTTP/1.1\r\nHost: a\r\n\r\n"}, {"PR", "OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"}, {"G", "ET / HTTP/1.1\r\nHost: a\r\n\r\n"}} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if _, err := io.WriteString(conn, p); err != nil {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
		answer := make([]byte, 8)
		if _, err := io.ReadFull(conn, answer); err != nil || !bytes.Equal(answer, []byte("HTTP/1.1")) {
			t.Errorf("%q: answered %q, %v", pieces, answer, err)
		}
		conn.Close()
	}
}
