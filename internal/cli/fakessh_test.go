package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const sshToken = "token-of-ssh-session"

// CreateSshSession makes sessions of sandboxes that are ready.
func (g *gateway) CreateSshSession(_ context.Context, r *openshellpb.CreateSshSessionRequest) (*openshellpb.CreateSshSessionResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sb := range g.sandboxes {
		if sb.Metadata.Id != r.SandboxId {
			continue
		}
		if sb.Phase != ready {
			return nil, status.Error(codes.FailedPrecondition, "sandbox is not ready")
		}
		g.sshSessions++
		return &openshellpb.CreateSshSessionResponse{SandboxId: r.SandboxId, Token: sshToken, ConnectPath: "/connect/ssh"}, nil
	}
	return nil, status.Error(codes.NotFound, "sandbox not found")
}

func (g *gateway) RevokeSshSession(_ context.Context, r *openshellpb.RevokeSshSessionRequest) (*openshellpb.RevokeSshSessionResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Token == sshToken && g.sshSessions > 0 {
		g.sshSessions--
		return &openshellpb.RevokeSshSessionResponse{Revoked: true}, nil
	}
	return &openshellpb.RevokeSshSessionResponse{}, nil
}

// ForwardTcp gives back what it gets in upper case, behind the number of sessions there are; "break" ends it.
func (g *gateway) ForwardTcp(stream openshellpb.OpenShell_ForwardTcpServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if init := first.GetInit(); init.GetSsh() == nil || init.AuthorizationToken != sshToken || init.ServiceId != "ssh-proxy:"+init.SandboxId {
		return status.Error(codes.Unauthenticated, "SSH session token is not valid")
	}
	g.mu.Lock()
	n := g.sshSessions
	g.mu.Unlock()
	send := func(data []byte) error {
		return stream.Send(&openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: data}})
	}
	if err := send([]byte{'0' + byte(n), ' '}); err != nil {
		return err
	}
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if bytes.HasPrefix(frame.GetData(), []byte("break")) {
			return status.Error(codes.Unavailable, "supervisor session disconnected")
		}
		if err := send(bytes.ToUpper(frame.GetData())); err != nil {
			return err
		}
	}
}
