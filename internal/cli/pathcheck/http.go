package pathcheck

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxBody is how much of a page is read in bytes.
const maxBody = 64 << 10

// connect opens a connection as a client of gRPC would, and tells what it is made of.
func (c *checker) connect(ctx context.Context) []Result {
	var conn net.Conn
	first := timed(ctx, c.Timeout, CheckConnect, func(ctx context.Context) Result {
		var err error
		if conn, err = c.Dial(ctx, "tcp", c.Address); err != nil {
			return Result{Status: Failed, Detail: err.Error(), Next: "check the name, the port and what filters packets on the way"}
		}
		return Result{Status: Passed, Detail: conn.RemoteAddr().String()}
	})
	if first.Status == Failed {
		return []Result{first, {Name: CheckTLS, Status: Skipped}}
	}
	defer conn.Close()
	if c.TLS == nil {
		return []Result{first, {Name: CheckTLS, Status: Skipped, Detail: "the endpoint is plaintext"}}
	}
	return []Result{first, timed(ctx, c.Timeout, CheckTLS, func(ctx context.Context) Result {
		config := c.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName = c.host
		}
		config.NextProtos = []string{"h2", "http/1.1"}
		shaken := tls.Client(conn, config)
		if err := shaken.HandshakeContext(ctx); err != nil {
			return Result{Status: Failed, Detail: err.Error(), Next: "see which certificate answers there: it may be that of a proxy"}
		}
		state := shaken.ConnectionState()
		detail := fmt.Sprintf("%s, ALPN %q", tls.VersionName(state.Version), state.NegotiatedProtocol)
		if len(state.PeerCertificates) > 0 {
			leaf := state.PeerCertificates[0]
			detail += fmt.Sprintf(", certificate of %s by %s until %s", leaf.Subject.CommonName, leaf.Issuer.CommonName, leaf.NotAfter.Format(time.DateOnly))
		}
		if state.NegotiatedProtocol != "h2" {
			return Result{Status: Failed, Detail: detail, Next: "something on the way ends TLS and does not offer HTTP/2: let it pass TLS through, or offer h2"}
		}
		return Result{Status: Passed, Detail: detail}
	})}
}

// client speaks HTTP/1.1 on connections that are used once.
func (c *checker) client() *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS != nil {
		config = c.TLS.Clone()
	}
	config.NextProtos = []string{"http/1.1"}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			DialContext: c.Dial, TLSClientConfig: config, DisableKeepAlives: true, Protocols: protocols,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *checker) url(path string) string {
	if c.TLS == nil {
		return "http://" + c.Address + path
	}
	return "https://" + c.Address + path
}

// plainHTTP asks for the page that says that the gateway lives.
func (c *checker) plainHTTP(ctx context.Context) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("/healthz"), nil)
	if err != nil {
		return Result{Status: Failed, Detail: err.Error()}
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return Result{Status: Failed, Detail: err.Error(), Next: "plain HTTP is not needed by clients of gRPC, but by browsers and probes"}
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return Result{Status: Failed, Detail: err.Error()}
	}
	detail := "GET /healthz: " + resp.Status
	if via := resp.Header.Get("Server") + resp.Header.Get("Via"); via != "" {
		detail += ", answered by " + clip(via)
	}
	if resp.StatusCode != http.StatusOK {
		return Result{Status: Failed, Detail: detail, Next: "something on the way answers instead of the gateway: see its routes"}
	}
	return Result{Status: Passed, Detail: detail}
}

// webSocket asks for the tunnel that clients use where HTTP/2 does not pass.
func (c *checker) webSocket(ctx context.Context) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("/_ws_tunnel"), nil)
	if err != nil {
		return Result{Status: Failed, Detail: err.Error()}
	}
	// The key of the example in RFC 6455; nothing is sent that it would mask.
	for key, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		req.Header.Set(key, value)
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return Result{Status: Failed, Detail: err.Error(), Next: "something on the way does not pass WebSocket; it matters only to clients that need the tunnel"}
	}
	defer resp.Body.Close()
	detail := "GET /_ws_tunnel: " + resp.Status
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Sec-Websocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=":
		return Result{Status: Passed, Detail: detail}
	case resp.StatusCode == http.StatusNotFound:
		return Result{Status: Skipped, Detail: detail + "; the gateway does not serve the tunnel"}
	case resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusMisdirectedRequest:
		return Result{Status: Skipped, Detail: detail + "; the gateway does not serve it under this name, see --allowed-hosts"}
	}
	return Result{Status: Failed, Detail: detail, Next: "something on the way does not pass WebSocket; it matters only to clients that need the tunnel"}
}

// clip keeps a header of a stranger short and in one line.
func clip(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	return text[:min(len(text), 80)]
}
