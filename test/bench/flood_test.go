package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// guard answers GetSandbox with a code and notes what it was asked with.
type guard struct {
	openshellpb.UnimplementedOpenShellServer
	code codes.Code
	seen chan string
}

func (g *guard) GetSandbox(ctx context.Context, r *openshellpb.GetSandboxRequest) (*openshellpb.SandboxResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	select {
	case g.seen <- r.GetName() + " " + strings.Join(md.Get("authorization"), ","):
	default:
	}
	if g.code == codes.OK {
		return &openshellpb.SandboxResponse{}, nil
	}
	return nil, status.Error(g.code, "no")
}

func TestTheFloodSendsTokensOfUnknownKeys(t *testing.T) {
	t.Parallel()
	for code, refused := range map[codes.Code]bool{codes.Unauthenticated: true, codes.ResourceExhausted: true, codes.OK: false, codes.Internal: false} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			g := &guard{code: code, seen: make(chan string, 2)}
			server := grpc.NewServer()
			openshellpb.RegisterOpenShellServer(server, g)
			go server.Serve(l)
			defer server.Stop()
			requests, err := encodeAll([]*openshellpb.GetSandboxRequest{{Name: "box"}})
			if err != nil {
				t.Fatal(err)
			}
			h, err := newHose(t.Context(), l.Addr().String(), requests[0])
			if err != nil {
				t.Fatal(err)
			}
			drained := make(chan error, 1)
			go func() { drained <- h.drain() }()
			var judged error
			over := func() bool {
				if refused {
					return h.refused.Load() >= 500
				}
				select {
				case judged = <-drained:
					return true
				default:
					return false
				}
			}
			if err := h.spray(floodPerSec, getSandbox, forger("https://idp"), over); err != nil {
				t.Fatal(err)
			}
			h.conn.Close()
			if !refused {
				if judged == nil {
					t.Error("an answer that is no refusal was taken for one")
				}
				return
			}
			if err := <-drained; err != nil {
				t.Error(err)
			}
			first, second := <-g.seen, <-g.seen
			if !strings.HasPrefix(first, "box Bearer ey") || first == second {
				t.Errorf("sent %q and %q", first, second)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	parts := strings.Split(forger("https://idp")(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, want := range []string{"kid", "exp"} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		var fields map[string]any
		if err == nil {
			err = json.Unmarshal(raw, &fields)
		}
		if err != nil || fields[want] == nil {
			t.Errorf("part %d: %s, %v", i, raw, err)
		}
	}
}
