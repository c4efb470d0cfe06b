package listener

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"

	"connectrpc.com/vanguard"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// bridge passes gRPC, gRPC-Web and Connect calls that arrived at net/http to the gRPC server over an in-memory
// HTTP/2 connection, and everything else to the plain HTTP handler. The detour keeps the gRPC transport's
// backpressure, which its own ServeHTTP lacks.
type bridge struct {
	pipe      *bufconn.Listener
	transport *http.Transport
	rpc       http.Handler
	plain     http.Handler
	services  []string
}

// pipeBuffer is the in-memory connection's buffer.
const pipeBuffer = 256 << 10

func newBridge(server *grpc.Server, plain http.Handler) (*bridge, error) {
	b := &bridge{pipe: bufconn.Listen(pipeBuffer), plain: plain}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	b.transport = &http.Transport{
		Protocols:          protocols,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return b.pipe.DialContext(ctx) },
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: 128 * streamWindow,
		},
	}
	proxy := &httputil.ReverseProxy{
		Transport: b.transport, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "gateway"
			r.Out.Host = r.In.Host
			// The proxy removes the hop-by-hop TE header that gRPC servers ask for.
			r.Out.Header.Set("Te", "trailers")
		},
	}
	var services []*vanguard.Service
	for name := range server.GetServiceInfo() {
		b.services = append(b.services, name)
		services = append(services, vanguard.NewService(name, proxy,
			vanguard.WithTargetProtocols(vanguard.ProtocolGRPC), vanguard.WithTargetCodecs(vanguard.CodecProto)))
	}
	transcoder, err := vanguard.NewTranscoder(services, vanguard.WithUnknownHandler(proxy))
	if err != nil {
		return nil, fmt.Errorf("make the transcoder: %w", err)
	}
	b.rpc = transcoder
	return b, nil
}

func (b *bridge) close() {
	b.transport.CloseIdleConnections()
	_ = b.pipe.Close()
}

// ServeHTTP implements http.Handler.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name := range r.Header {
		// Names of this prefix are ours between rooms; nobody outside may set one.
		if strings.HasPrefix(strings.ToLower(name), "sallyport-bridge-") {
			r.Header.Del(name)
		}
	}
	if b.isCall(r) {
		b.rpc.ServeHTTP(w, r)
		return
	}
	b.plain.ServeHTTP(w, r)
}

// isCall tells a call from other HTTP: by its content type, as the reference gateways do, or as a Connect request to
// a registered service.
func (b *bridge) isCall(r *http.Request) bool {
	contentType := r.Header.Get("Content-Type")
	if strings.HasPrefix(contentType, "application/grpc") {
		return true
	}
	service, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !ok || !slices.Contains(b.services, service) {
		return false
	}
	return r.Header.Get("Connect-Protocol-Version") != "" || strings.HasPrefix(contentType, "application/connect+")
}
