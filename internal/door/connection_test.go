package door_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/ratelimit"
)

// counted are credentials of a server in plaintext, whose connections count what the door tells them.
type counted struct {
	credentials.TransportCredentials
	good, slow atomic.Int64
}

type countedInfo struct {
	credentials.CommonAuthInfo
	c *counted
}

func (countedInfo) AuthType() string { return "counted" }
func (i countedInfo) Good()          { i.c.good.Add(1) }
func (i countedInfo) Slow()          { i.c.slow.Add(1) }

func (c *counted) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, countedInfo{c: c}, nil
}

func (*counted) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (c *counted) Clone() credentials.TransportCredentials { return c }
func (c *counted) take() (good, slow int64)                { return c.good.Swap(0), c.slow.Swap(0) }
func (*counted) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, net.ErrClosed
}

// Who floods the gateway with credentials that nobody believes is read later; who is believed, is not.
func TestConnectionsLearnWhoCalls(t *testing.T) {
	t.Parallel()
	conn := &counted{}
	limiter, err := ratelimit.New(ratelimit.Config{
		Failed: ratelimit.Rate{PerSecond: 0.001, Burst: 3}, Anonymous: ratelimit.Rate{PerSecond: 0.001, Burst: 2},
	}, ratelimit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := openWith(t, nil, func(c *door.Config) { c.Limiter = limiter }, grpc.Creds(conn))
	believed, forged := "Bearer "+h.user("openshell-user", "openshell:all"), "Bearer x.y.z"
	for i, step := range []struct {
		authorization string
		want          codes.Code
		good, slow    int64
	}{
		{believed, codes.OK, 1, 0},
		// The first wrong ones may be mistakes.
		{forged, codes.Unauthenticated, 0, 0},
		{forged, codes.Unauthenticated, 0, 0},
		{forged, codes.Unauthenticated, 0, 0},
		{forged, codes.ResourceExhausted, 0, 1},
		{"Bearer " + h.user("openshell-user", "sandbox:read"), codes.ResourceExhausted, 0, 1},
		{believed, codes.OK, 1, 0},
		{"", codes.Unauthenticated, 0, 0},
		{"", codes.Unauthenticated, 0, 0},
		{"", codes.ResourceExhausted, 0, 1},
	} {
		ctx := t.Context()
		if step.authorization != "" {
			ctx = with(t, "authorization", step.authorization)
		}
		if code := status.Code(h.getSandbox(ctx)); code != step.want {
			t.Errorf("step %d: %s, want %s", i, code, step.want)
		}
		if good, slow := conn.take(); good != step.good || slow != step.slow {
			t.Errorf("step %d: told good %d, slow %d times; want %d, %d", i, good, slow, step.good, step.slow)
		}
	}
}
