package transport

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// requestIDHeader correlates a call with the gateway's log; the gateway keeps an id that it is sent.
const requestIDHeader = "x-request-id"

// CallError is a failed call with the id under which the gateway logged it.
type CallError struct {
	// Method is the call's full name, "/package.Service/Method".
	Method    string
	RequestID string
	err       error
}

// Error is the gateway's message.
func (e *CallError) Error() string { return status.Convert(e.err).Message() }

// Unwrap returns the error of the gRPC library.
func (e *CallError) Unwrap() error { return e.err }

// GRPCStatus lets the status package see through.
func (e *CallError) GRPCStatus() *status.Status { return status.Convert(e.err) }

// prepare gives a call its id and asks for the token, so that a failure to obtain one arrives as it is.
func prepare(ctx context.Context, tokens TokenSource) (context.Context, string, error) {
	if tokens != nil {
		if _, err := tokens.Token(ctx); err != nil {
			return nil, "", err
		}
	}
	id := uuid.NewString()
	return metadata.AppendToOutgoingContext(ctx, requestIDHeader, id), id, nil
}

func unaryCall(tokens TokenSource) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		ctx, id, err := prepare(ctx, tokens)
		if err != nil {
			return err
		}
		if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
			return &CallError{Method: method, RequestID: id, err: err}
		}
		return nil
	}
}

func streamCall(tokens TokenSource) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		ctx, id, err := prepare(ctx, tokens)
		if err != nil {
			return nil, err
		}
		stream, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, &CallError{Method: method, RequestID: id, err: err}
		}
		return &callStream{ClientStream: stream, method: method, id: id}, nil
	}
}

// callStream marks the error that ends a stream.
type callStream struct {
	grpc.ClientStream
	method, id string
}

// RecvMsg implements grpc.ClientStream.
func (s *callStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &CallError{Method: s.method, RequestID: s.id, err: err}
}
