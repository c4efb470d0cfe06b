package transport

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

const (
	// tunnelPath is where a gateway serves WebSockets whose messages are the bytes of a connection.
	tunnelPath = "/_ws_tunnel"
	// maxTunnelMessage bounds a message of such a WebSocket, in bytes.
	maxTunnelMessage = 1 << 20
	edgeCookie       = "CF_Authorization"
)

// edgeHeaders are how an authenticating proxy finds its token.
func edgeHeaders(token string) map[string]string {
	return map[string]string{"cf-access-jwt-assertion": token, "cookie": edgeCookie + "=" + token}
}

// tunnelDialer reaches a gateway behind a proxy that passes WebSockets and no gRPC: each connection is one WebSocket.
func tunnelDialer(t Target) (func(context.Context, string) (net.Conn, error), error) {
	address, transport := "ws://"+t.Endpoint.Address()+tunnelPath, &http.Transport{DialContext: dialLoopback}
	if t.Endpoint.Secure {
		cfg, err := t.TLS()
		if err != nil {
			return nil, err
		}
		// A WebSocket is opened over HTTP/1.1.
		cfg.NextProtos = []string{"http/1.1"}
		dialer := &net.Dialer{Timeout: ConnectTimeout}
		address = "wss://" + t.Endpoint.Address() + tunnelPath
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: cfg, TLSHandshakeTimeout: ConnectTimeout,
		}
	}
	transport.DisableKeepAlives = true
	client := &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, _ string) (net.Conn, error) {
		header := http.Header{}
		for name, value := range edgeHeaders(t.Edge) {
			header.Set(name, value)
		}
		header.Set("Cf-Access-Token", t.Edge)
		ws, resp, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header}) //nolint:bodyclose // Dial closes it.
		if err != nil {
			return nil, tunnelError(resp, err)
		}
		ws.SetReadLimit(maxTunnelMessage)
		// The connection outlives the call that opened it.
		return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
	}, nil
}

// tunnelError words what answered in place of a tunnel.
func tunnelError(resp *http.Response, err error) error {
	switch {
	case resp == nil:
		return err
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the gateway does not serve %s: have its operator switch the WebSocket tunnel on", tunnelPath)
	case resp.StatusCode >= 300 && resp.StatusCode < 500 && resp.StatusCode != http.StatusMisdirectedRequest:
		return fmt.Errorf("the proxy or the gateway refused the tunnel with status %d: sign in again with `sallyport gateway login`", resp.StatusCode)
	}
	return fmt.Errorf("the tunnel was answered with status %d", resp.StatusCode)
}
