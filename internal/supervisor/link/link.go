// Package link opens the supervisor's one connection to its gateway. It owns transport settings and nothing else.
package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	connectTimeout = 10 * time.Second
	// maxBackoff bounds the pause between attempts to connect, however long the gateway is away.
	maxBackoff     = 10 * time.Second
	pingEvery      = 10 * time.Second
	pingTimeout    = 20 * time.Second
	streamWindow   = 1 << 20
	connWindow     = 16 << 20
	maxMessage     = 4 << 20
	transportWrite = 64 << 10
)

// Endpoint is a gateway's address.
type Endpoint struct {
	Host, Port string
	TLS        bool
}

// ParseEndpoint reads http[s]://host[:port].
func ParseEndpoint(raw string) (Endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || (u.Path != "" && u.Path != "/") {
		return Endpoint{}, errors.New("gateway endpoint must be http[s]://host[:port]")
	}
	e := Endpoint{Host: u.Hostname(), Port: u.Port()}
	switch u.Scheme {
	case "https":
		e.TLS = true
		if e.Port == "" {
			e.Port = "443"
		}
	case "http":
		if e.Port == "" {
			e.Port = "80"
		}
	default:
		return Endpoint{}, errors.New("gateway endpoint must begin with http:// or https://")
	}
	return e, nil
}

// Loopback tells whether the endpoint is on this machine.
func (e Endpoint) Loopback() bool {
	ip := net.ParseIP(e.Host)
	return e.Host == "localhost" || ip != nil && ip.IsLoopback()
}

// TLSFiles names the files for an https endpoint; each may be empty. Without a CA the system's roots are used.
type TLSFiles struct {
	CA, Cert, Key string
	// ServerName overrides the name that the gateway's certificate must have.
	ServerName string
}

// Dial returns the connection, which connects when it is first used and again whenever it broke.
func Dial(e Endpoint, files TLSFiles, creds credentials.PerRPCCredentials) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if e.TLS {
		c, err := tlsConfig(files)
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(c)
	}
	conn, err := grpc.NewClient("dns:///"+net.JoinHostPort(e.Host, e.Port),
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(creds),
		// A sandbox's proxy settings are for the sandbox.
		grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true,
		}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(transportWrite),
		grpc.WithReadBufferSize(transportWrite),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: connectTimeout,
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: maxBackoff},
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare gateway connection: %w", err)
	}
	return conn, nil
}

func tlsConfig(files TLSFiles) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.ServerName}
	if files.CA != "" {
		pem, err := os.ReadFile(files.CA)
		if err != nil {
			return nil, fmt.Errorf("read gateway CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read gateway CA: %s holds no certificate", files.CA)
		}
	}
	if (files.Cert == "") != (files.Key == "") {
		return nil, errors.New("client certificate and key must be given together")
	}
	if files.Cert != "" {
		if _, err := tls.LoadX509KeyPair(files.Cert, files.Key); err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		// Read again for each handshake: the files are replaced when the certificate is renewed.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			if err != nil {
				return nil, fmt.Errorf("read client certificate: %w", err)
			}
			return &pair, nil
		}
	}
	return c, nil
}
