package v00

import (
	"context"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sshsession"
)

// SSH is what the SSH sessions of this dialect need.
type SSH struct {
	// Sessions may be nil: then there are none.
	Sessions *sshsession.Service
	// Host and Port are where clients are told to connect; empty and 0 mean the address that the caller used, where the
	// door passes ":authority", else Bind.
	Host string
	Port uint16
	// Bind is the address of the port.
	Bind netip.AddrPort
	// TLS tells whether the port speaks it.
	TLS bool
	// ConnectPath is told to clients; empty means "/connect/ssh", which is also the only path that is served.
	ConnectPath string
}

const (
	connectPath     = "/connect/ssh"
	headerAuthority = ":authority"
	// wildcard is understood by all clients to mean the host that they used already.
	wildcard = "0.0.0.0"
	// maxHost bounds the name of a host, in bytes, as clients do.
	maxHost = 253
)

type sshHandler struct {
	sandboxes *sandbox.Service
	ssh       SSH
}

// sessions returns the sessions, or why there are none.
func (s SSH) sessions() (*sshsession.Service, error) {
	if s.Sessions == nil {
		return nil, fault.New(fault.FailedPrecondition, "SSH_OFF", "this gateway has no SSH sessions").
			WithNext("use ExecSandbox")
	}
	return s.Sessions, nil
}

func (h sshHandler) CreateSshSession(ctx context.Context, req *openshellpb.CreateSshSessionRequest) (*openshellpb.CreateSshSessionResponse, error) {
	// First of all: what is not the caller's does not exist, with or without sessions.
	if _, err := h.sandboxes.Lookup(ctx, req.SandboxId); err != nil {
		return nil, err
	}
	sessions, err := h.ssh.sessions()
	if err != nil {
		return nil, err
	}
	session, token, err := sessions.Create(ctx, req.SandboxId)
	if err != nil {
		return nil, err
	}
	host, port := h.ssh.address(ctx)
	resp := &openshellpb.CreateSshSessionResponse{
		SandboxId: session.SandboxID, Token: token, GatewayHost: host, GatewayPort: uint32(port), GatewayScheme: h.ssh.scheme(),
		ConnectPath: h.ssh.ConnectPath, ExpiresAtMs: millis(session.Expires),
	}
	if resp.ConnectPath == "" {
		resp.ConnectPath = connectPath
	}
	return resp, nil
}

func (h sshHandler) RevokeSshSession(ctx context.Context, req *openshellpb.RevokeSshSessionRequest) (*openshellpb.RevokeSshSessionResponse, error) {
	sessions, err := h.ssh.sessions()
	if err != nil {
		return nil, err
	}
	revoked, err := sessions.Revoke(ctx, req.Token)
	if err != nil {
		return nil, err
	}
	return &openshellpb.RevokeSshSessionResponse{Revoked: revoked}, nil
}

func (s SSH) scheme() string {
	if s.TLS {
		return "https"
	}
	return "http"
}

// address is where the caller shall connect. Only the caller is told, so it may say itself where it reached us.
func (s SSH) address(ctx context.Context) (host string, port uint16) {
	host, port = s.Host, s.Port
	usedHost, usedPort := s.used(ctx)
	if host == "" {
		host = usedHost
	}
	if host == "" {
		host = hostOf(s.Bind)
	}
	if port == 0 {
		port = usedPort
	}
	if port == 0 {
		port = s.Bind.Port()
	}
	return host, port
}

// used returns host and port of the authority that the caller asked for, if it can be one.
func (s SSH) used(ctx context.Context) (string, uint16) {
	values := metadata.ValueFromIncomingContext(ctx, headerAuthority)
	if len(values) != 1 {
		return "", 0
	}
	u, err := url.Parse(s.scheme() + "://" + values[0])
	if err != nil || u.Host != values[0] || u.User != nil || !hostname(u.Hostname()) {
		return "", 0
	}
	host, text := u.Hostname(), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if text == "" {
		text = map[bool]string{false: "80", true: "443"}[s.TLS]
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0
	}
	return host, uint16(port)
}

// hostname tells whether clients accept a host: letters, digits and ".:-".
func hostname(host string) bool {
	return host != "" && len(host) <= maxHost && strings.IndexFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(".:-", r)
	}) < 0
}

// hostOf is the host of an address as clients put it into a URL. Of the addresses that mean the host they used already
// they know "0.0.0.0", "127.0.0.1" and "::1".
func hostOf(bind netip.AddrPort) string {
	addr := bind.Addr().Unmap().WithZone("")
	switch {
	case !addr.IsValid() || addr.IsUnspecified():
		return wildcard
	case addr.Is6() && !addr.IsLoopback():
		return "[" + addr.String() + "]"
	}
	return addr.String()
}
