package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/bench/rawcodec"
)

// method is a unary method, by its full name.
type method string

const (
	health        method = openshellpb.OpenShell_Health_FullMethodName
	getSandbox    method = openshellpb.OpenShell_GetSandbox_FullMethodName
	listSandboxes method = openshellpb.OpenShell_ListSandboxes_FullMethodName
	createSandbox method = openshellpb.OpenShell_CreateSandbox_FullMethodName
)

// short is the method's name within its service.
func (m method) short() string { return string(m[strings.LastIndexByte(string(m), '/')+1:]) }

// dial returns a connection to a server of the world; it connects when it is first used.
func (w *world) dial(address string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if w.secure {
		cert, err := os.ReadFile(w.path("cert.pem"))
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(cert) {
			return nil, errors.New("certificate is not PEM")
		}
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(transport), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(16<<20),
	)
}

// bearer returns a context whose calls carry the token.
func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// unaryCall sends one of several requests after the other with one of several tokens, and throws the answer away.
// No tokens means none.
func unaryCall(conn *grpc.ClientConn, m method, requests [][]byte, tokens []string) call {
	type state struct {
		next  int
		reply rawcodec.Message
		_     [64]byte // keeps workers off each other's cache lines
	}
	states := make([]state, maxWorkers)
	codec := grpc.ForceCodecV2(rawcodec.New())
	headers := make([]metadata.MD, len(tokens))
	for i, token := range tokens {
		headers[i] = metadata.Pairs("authorization", "Bearer "+token)
	}
	return func(ctx context.Context, worker int) (int64, error) {
		s := &states[worker]
		i := s.next*workersAtOnce + worker
		s.next++
		if len(headers) > 0 {
			ctx = metadata.NewOutgoingContext(ctx, headers[i%len(headers)])
		}
		request := rawcodec.Message{Bytes: requests[i%len(requests)]}
		if err := conn.Invoke(ctx, string(m), &request, &s.reply, codec); err != nil {
			return 0, err
		}
		return int64(len(s.reply.Bytes)), nil
	}
}

// workersAtOnce is the usual number of callers, maxWorkers the most there ever are.
const (
	workersAtOnce = 16
	maxWorkers    = 64
)

// capture asks the gateway once and keeps the answer for the limit. check looks at the answer.
func (w *world) capture(ctx context.Context, conn *grpc.ClientConn, m method, request proto.Message, answer proto.Message, check func() error) error {
	encoded, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	var raw rawcodec.Message
	err = conn.Invoke(bearer(ctx, w.token), string(m), &rawcodec.Message{Bytes: encoded}, &raw,
		grpc.ForceCodecV2(rawcodec.New()), grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("ask the gateway for %s: %w", m.short(), err)
	}
	if err := proto.Unmarshal(raw.Bytes, answer); err != nil {
		return err
	}
	if err := check(); err != nil {
		return fmt.Errorf("answer of %s: %w", m.short(), err)
	}
	return os.WriteFile(w.path("answers/"+m.short()), raw.Bytes, 0o600)
}

func encodeAll[T proto.Message](messages []T) ([][]byte, error) {
	out := make([][]byte, len(messages))
	for i, m := range messages {
		var err error
		if out[i], err = proto.Marshal(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}
