package listener

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"connectrpc.com/vanguard"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"

	"sallyport.dev/sallyport/internal/callinfo"
)

// bridge passes gRPC, gRPC-Web and Connect calls that arrived at net/http to the gRPC server over an in-memory
// HTTP/2 connection, and everything else to the plain HTTP handler. The detour keeps the gRPC transport's
// backpressure, which its own ServeHTTP lacks.
type bridge struct {
	pipe      *bufconn.Listener
	transport *http.Transport
	// same passes on what is gRPC already, rpc turns the other protocols into it.
	same     http.Handler
	rpc      func() http.Handler
	plain    http.Handler
	services []string
	foreign  func(*http.Request) bool

	// calls holds, by number, who is at the other end of each call that is under way.
	calls sync.Map
	last  atomic.Uint64
}

// headerPrefix is that of headers between the bridge and the gRPC server; headerCall carries the number of a call.
const (
	headerPrefix = "sallyport-bridge-"
	headerCall   = headerPrefix + "call"
)

// pipeBuffer is the in-memory connection's buffer.
const pipeBuffer = 256 << 10

func newBridge(server *grpc.Server, plain http.Handler, foreign func(*http.Request) bool, log *slog.Logger) *bridge {
	b := &bridge{pipe: bufconn.Listen(pipeBuffer), plain: plain, foreign: foreign}
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
		Transport: b.transport, FlushInterval: -1, ModifyResponse: trailersLast,
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
	b.same = proxy
	// It reads the description of every method, which is a tenth of the gateway's start, and many gateways never need it.
	b.rpc = sync.OnceValue(func() http.Handler {
		transcoder, err := vanguard.NewTranscoder(services, vanguard.WithUnknownHandler(proxy))
		if err != nil {
			log.Error("gRPC-Web and Connect cannot be served", "error", err)
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		}
		return transcoder
	})
	return b
}

// trailersLast turns an answer that is nothing but a status, which gRPC sends in its headers, into one with trailers. The
// proxy flushes headers as soon as it has them, which would otherwise now and then end the stream before the status.
func trailersLast(r *http.Response) error {
	if r.Header.Get("Grpc-Status") == "" {
		return nil
	}
	r.Trailer = http.Header{}
	for name, values := range r.Header {
		if name != "Content-Type" && name != "Date" {
			r.Trailer[name] = values
			delete(r.Header, name)
		}
	}
	return nil
}

func (b *bridge) close() {
	b.transport.CloseIdleConnections()
	_ = b.pipe.Close()
}

// Accept implements net.Listener, for the gRPC server.
func (b *bridge) Accept() (net.Conn, error) {
	c, err := b.pipe.Accept()
	if err != nil {
		return nil, err
	}
	return &piped{Conn: c, bridge: b}, nil
}

// Addr implements net.Listener.
func (b *bridge) Addr() net.Addr { return b.pipe.Addr() }

// Close implements net.Listener.
func (b *bridge) Close() error { return b.pipe.Close() }

// piped is a connection of the bridge, as the gRPC server sees it.
type piped struct {
	net.Conn
	bridge *bridge
}

// bridgeInfo marks the calls that came over a bridge, and no others.
type bridgeInfo struct {
	credentials.CommonAuthInfo
	bridge *bridge
}

// AuthType implements credentials.AuthInfo.
func (bridgeInfo) AuthType() string { return "bridge" }

// Peer is gRPC's peer.FromContext, which for a call that came over HTTP/1.1, gRPC-Web or Connect knows only the bridge:
// Peer returns the address and the TLS state of the connection on which the call arrived at the port.
func Peer(ctx context.Context) (*peer.Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(bridgeInfo)
	if !ok {
		return p, true
	}
	numbers := metadata.ValueFromIncomingContext(ctx, headerCall)
	if len(numbers) != 1 {
		return p, true
	}
	n, err := strconv.ParseUint(numbers[0], 10, 64)
	if err != nil {
		return p, true
	}
	// Not there when the client has gone away: then nobody is at the other end.
	if found, ok := info.bridge.calls.Load(n); ok {
		if real, ok := found.(*peer.Peer); ok {
			return real, true
		}
	}
	return p, true
}

// peerOf describes the connection of a request as the gRPC transport does.
func peerOf(r *http.Request) *peer.Peer {
	p := &peer.Peer{Addr: callinfo.Remote(r)}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		p.LocalAddr = local
	}
	slow, ok := r.Context().Value(brakeKey{}).(*brake)
	if !ok {
		slow = new(brake)
	}
	if r.TLS == nil {
		p.AuthInfo = plainInfoOf(slow)
		return p
	}
	p.AuthInfo = sealedInfoOf(slow, credentials.TLSInfo{State: *r.TLS})
	return p
}

// ServeHTTP implements http.Handler.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name := range r.Header {
		// Names of this prefix are ours between rooms; nobody outside may set one.
		if strings.HasPrefix(strings.ToLower(name), headerPrefix) {
			r.Header.Del(name)
		}
	}
	if b.isCall(r) {
		if b.foreign != nil && byBrowser(r) && b.foreign(r) {
			http.Error(w, "a page of another site may not call this gateway; name its host in --allowed-hosts if it is the gateway's", http.StatusForbidden)
			return
		}
		n := b.last.Add(1)
		b.calls.Store(n, peerOf(r))
		defer b.calls.Delete(n)
		r.Header.Set(headerCall, strconv.FormatUint(n, 10))
		if isGRPC(r.Header.Get("Content-Type")) {
			b.same.ServeHTTP(w, r)
		} else {
			b.rpc().ServeHTTP(w, r)
		}
		return
	}
	b.plain.ServeHTTP(w, r)
}

// byBrowser tells a request of a page: browsers say what made a request that can change something, and a page cannot have
// them keep it back.
func byBrowser(r *http.Request) bool {
	return len(r.Header.Values("Origin")) > 0 || len(r.Header.Values("Sec-Fetch-Site")) > 0
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

// isGRPC tells gRPC with Protobuf, also over HTTP/1.1, from its relatives.
func isGRPC(contentType string) bool {
	base, _, _ := strings.Cut(contentType, ";")
	base = strings.TrimSpace(base)
	return base == "application/grpc" || base == "application/grpc+proto"
}
