package servicehost

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/service"
)

const (
	// targetHost is where programs are reached inside their sandbox, and the host name that they are asked for.
	targetHost = "127.0.0.1"
	// bufferSize is what is read and written at once: what one message of a relay carries.
	bufferSize = 16 << 10
	// maxAnswerHeader bounds the head of a program's answer, in bytes.
	maxAnswerHeader = 64 << 10
	// keepIdle is how long a connection to a program waits for another request. Common servers close theirs after five
	// seconds, and a request that meets the closing is lost if it must not be sent twice.
	keepIdle       = 4 * time.Second
	idlePerService = 8
	idleOfAll      = 512
)

// proxy carries requests to programs over relays.
type proxy struct {
	h         *Handler
	transport *http.Transport
	reverse   *httputil.ReverseProxy
}

func newProxy(h *Handler) *proxy {
	p := &proxy{h: h}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	p.transport = &http.Transport{
		Protocols: protocols, DialContext: p.dial, DisableCompression: true,
		ResponseHeaderTimeout: h.cfg.HeaderTimeout, MaxResponseHeaderBytes: maxAnswerHeader, ExpectContinueTimeout: time.Second,
		MaxIdleConns: idleOfAll, MaxIdleConnsPerHost: idlePerService, IdleConnTimeout: keepIdle,
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize,
	}
	p.reverse = &httputil.ReverseProxy{
		Transport: p.transport, Rewrite: p.rewrite, ModifyResponse: p.answered, ErrorHandler: p.failed, BufferPool: &buffers{},
		ErrorLog: slog.NewLogLogger(h.cfg.Logger.Handler(), slog.LevelDebug),
	}
	return p
}

// exchange is one request on its way to a program.
type exchange struct {
	a *attempt
	e *service.Endpoint
	// passed is the header Authorization that is the program's.
	passed []string
	// upgraded is when the connection became something else than HTTP; zero while it has not.
	upgraded time.Time
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		panic("a request to a service without an exchange")
	}
	return x
}

// serve carries a request that was let in.
func (p *proxy) serve(a *attempt, e *service.Endpoint) {
	x := &exchange{a: a, e: e}
	if e.Mode == service.BearerPassthrough {
		x.passed = a.foreignToken()
	}
	defer x.closed()
	if up := a.r.Header["Upgrade"]; len(up) > 0 && (len(up) > 1 || !strings.EqualFold(up[0], "websocket")) {
		// Another protocol could carry requests that nobody here has looked at.
		a.r.Header.Del("Upgrade")
		a.r.Header.Del("Http2-Settings")
	}
	p.reverse.ServeHTTP(&answer{a.w}, a.r.WithContext(context.WithValue(a.r.Context(), exchangeKey{}, x)))
}

// foreignToken returns the header Authorization if it holds one bearer token that is not the gateway's: neither what let
// the caller in, nor anything else that the gateway believes.
func (a *attempt) foreignToken() []string {
	values := a.r.Header[headerAuthorization]
	if _, ok := authn.Bearer(values); !ok || a.caller.header == headerAuthorization {
		return nil
	}
	// A token that the gateway would take, or may take again once its provider answers, stays here.
	_, err := a.h.cfg.Authenticator.Authenticate(a.r.Context(), &authn.Request{Method: Method, Authorization: values, Remote: a.remote.String()})
	if !fault.Is(err, fault.Unauthenticated) {
		return nil
	}
	return values
}

// rewrite turns a caller's request into the one that the program gets.
func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	x := exchangeOf(r.In.Context())
	out := r.Out
	out.URL.Scheme = "http"
	out.URL.Host = address(x.e)
	// As it came: what is odd in it is for the program to judge.
	out.URL.RawQuery = r.In.URL.RawQuery
	out.Host = target(x.e)
	header := out.Header
	for name := range header {
		if gatewayHeader(name) {
			delete(header, name)
		}
	}
	if x.passed != nil {
		header[headerAuthorization] = x.passed
	}
	programCookies(header)
	// A program that compares the two knows itself by the name that it is asked for, not by its public one.
	if origins := header["Origin"]; len(origins) == 1 && own(origins[0], r.In) {
		header["Origin"] = []string{"http://" + out.Host}
	}
	r.SetXForwarded()
	if p.h.address.Secure {
		header["X-Forwarded-Proto"] = []string{"https"}
	}
}

// gatewayHeader tells whether a header is meant for the gateway or made by what stands in front of it: credentials,
// certificates, and what says who somebody is.
func gatewayHeader(name string) bool {
	switch name {
	case headerAuthorization, HeaderAuthorization, "Proxy-Authorization", "Cf-Access-Jwt-Assertion", "Cf-Access-Token",
		"X-Ssl-Client-Cert", "X-Client-Cert", "X-Sandbox-Secret", "X-Sandbox-Token", "X-Real-Ip", "Forwarded":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "Sallyport-")
}

// address names, to the transport, the service of a sandbox: a connection is used again for requests to the same only.
func address(e *service.Endpoint) string {
	return net.JoinHostPort(e.ID+"."+e.SandboxID, strconv.Itoa(int(e.Port)))
}

func target(e *service.Endpoint) string {
	return net.JoinHostPort(targetHost, strconv.Itoa(int(e.Port)))
}

// dial opens a relay to what address named.
func (p *proxy) dial(ctx context.Context, _, at string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	id, sandboxID, _ := strings.Cut(host, ".")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(p.h.ctx, end)()
	wait, cancel := context.WithTimeout(ctx, p.h.cfg.SupervisorWait)
	defer cancel()
	session, err := p.h.cfg.Relays.Session(wait, sandboxID)
	if err != nil {
		return nil, err
	}
	channel, err := session.Open(ctx, relay.Target{Host: targetHost, Port: uint32(port), ServiceID: id})
	if err != nil {
		return nil, err
	}
	return newConn(channel.Conn(), p.h.cfg.Idle), nil
}

// answered keeps what a program answers inside its own host.
func (p *proxy) answered(resp *http.Response) error {
	x := exchangeOf(resp.Request.Context())
	header := resp.Header
	ownCookies(header)
	// Both reach beyond the host: one forgets the cookies of the whole domain, the other sends browsers elsewhere.
	header.Del("Clear-Site-Data")
	header.Del("Alt-Svc")
	if location := header.Get("Location"); location != "" {
		header.Set("Location", x.public(location))
	}
	p.h.cfg.Observe(resp.StatusCode)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.upgraded = p.h.cfg.Now()
		x.a.record(audit.ActionSessionOpen, audit.Allowed, "", map[string]string{"via": via, "by": string(x.a.caller.how), "upgrade": "true"})
	}
	return nil
}

// public returns a redirection to the program's own name, which nobody outside knows, as one to its public name.
func (x *exchange) public(location string) string {
	for _, own := range [...]string{target(x.e), net.JoinHostPort("localhost", strconv.Itoa(int(x.e.Port)))} {
		rest, ok := strings.CutPrefix(location, "http://"+own)
		if ok && (rest == "" || rest[0] == '/' || rest[0] == '?' || rest[0] == '#') {
			scheme := "http"
			if x.a.r.TLS != nil || x.a.h.address.Secure {
				scheme = "https"
			}
			return scheme + "://" + x.a.r.Host + rest
		}
	}
	return location
}

// closed records the end of a connection that became something else than HTTP.
func (x *exchange) closed() {
	if x.upgraded.IsZero() {
		return
	}
	reason := "done"
	if f, ok := errors.AsType[*fault.Error](context.Cause(x.a.r.Context())); ok {
		reason = f.Reason
	}
	x.a.record(audit.ActionSessionClose, audit.Allowed, "", map[string]string{
		"via": via, "by": string(x.a.caller.how), "upgrade": "true", "reason": reason,
		"lasted": x.a.h.cfg.Now().Sub(x.upgraded).Round(time.Millisecond).String(),
	})
}

// failed answers for a program that did not.
func (p *proxy) failed(_ http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	if cause, ok := errors.AsType[*fault.Error](context.Cause(x.a.r.Context())); ok {
		x.a.refuse(cause)
		return
	}
	next := "see that a program listens on " + target(x.e) + " in the sandbox, then try again"
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Reason != "RELAY_TARGET_FAILED" && f.Next != "" {
		next = f.Next
	}
	x.a.refuse(fault.Wrap(err, fault.Unavailable, ReasonUnreachable, "service endpoint is not reachable").WithNext("%s", next))
}

// answer keeps a program's informational answers from the caller: nothing that is removed from headers is removed from
// theirs.
type answer struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what the connection can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// buffers lends what bodies are copied through.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
