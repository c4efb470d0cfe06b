package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// edgePath is the gateway's page behind the proxy.
	edgePath = "/auth/connect"
	// maxHandover bounds what the page sends, in bytes.
	maxHandover = 64 << 10
	// codeAlphabet are 32 letters and digits that are not mistaken for each other.
	codeAlphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
)

// Edge is how a person signs in to the proxy in front of a gateway: in a browser, where a page of the gateway hands the
// proxy's token over after a click.
type Edge struct {
	// Open shows a URL to the person; nil or an error leaves them with the printed URL.
	Open func(ctx context.Context, url string) error
	// Notes is where the person reads what to do.
	Notes io.Writer
	// Timeout bounds the wait for the person; 0 means 120 seconds.
	Timeout time.Duration
}

// Login returns the proxy's token for a gateway, which is named by its origin: scheme, host and port. Only a page of that
// origin that shows the code of this login is listened to; whatever else arrives is refused, and the wait goes on.
func (e Edge) Login(ctx context.Context, origin string) (string, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fault.Wrap(err, fault.FailedPrecondition, ReasonListen, "cannot listen for the browser: %v", err).
			WithNext("check the network of this machine")
	}
	at, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return "", errors.Join(errors.New("the listener has no port"), listener.Close())
	}
	h := &handover{host: listener.Addr().String(), origin: origin, code: confirmationCode(), tokens: make(chan string, 1)}
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 5 * time.Second, MaxHeaderBytes: maxCallbackHeader,
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		// It ends with the server, or the wait ends without it.
		_ = server.Serve(listener)
	}()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		<-served
	}()
	e.show(ctx, origin+edgePath+"?"+url.Values{"callback_port": {strconv.Itoa(at.Port)}, "code": {h.code}}.Encode(), h.code)
	timeout := e.Timeout
	if timeout == 0 {
		timeout = browserTimeout
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case token := <-h.tokens:
		return token, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-timer.C:
		return "", fault.New(fault.DeadlineExceeded, ReasonTimeout, "edge authentication timed out after %d seconds", int(timeout.Seconds())).
			WithNext("run the command again, and press Connect on the page within that time")
	}
}

func (e Edge) show(ctx context.Context, address, code string) {
	opened := errors.New("no browser")
	if e.Open != nil {
		opened = e.Open(ctx, address)
	}
	if opened != nil {
		fmt.Fprintf(e.Notes, "Open this URL in a browser on this machine:\n\n  %s\n\n", address)
	} else {
		fmt.Fprintf(e.Notes, "If no page appears, open this URL:\n\n  %s\n\n", address)
	}
	fmt.Fprintf(e.Notes, "Press Connect only if the page shows the code %s. Waiting for authentication...\n", code)
}

// confirmationCode is what the person compares: XXX-XXXX.
func confirmationCode() string {
	raw := make([]byte, 7)
	rand.Read(raw)
	var b strings.Builder
	for i, r := range raw {
		if i == 3 {
			b.WriteByte('-')
		}
		b.WriteByte(codeAlphabet[int(r)%len(codeAlphabet)])
	}
	return b.String()
}

// handover takes the token from the gateway's page.
type handover struct {
	host, origin, code string
	tokens             chan string
}

// ServeHTTP implements http.Handler.
func (h *handover) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Vary", "Origin")
	header.Set("Connection", "close")
	origins := r.Header.Values("Origin")
	switch {
	case r.Host != h.host && r.Host != strings.Replace(h.host, "127.0.0.1", "localhost", 1):
		refuse(w, http.StatusMisdirectedRequest, "unexpected host")
		return
	case r.URL.Path != callbackPath:
		refuse(w, http.StatusNotFound, "not found")
		return
	case len(origins) != 1 || !strings.EqualFold(origins[0], h.origin):
		refuse(w, http.StatusForbidden, "origin not allowed")
		return
	}
	header.Set("Access-Control-Allow-Origin", origins[0])
	header.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
	header.Set("Access-Control-Allow-Headers", "Content-Type")
	header.Set("Access-Control-Max-Age", "60")
	switch r.Method {
	case http.MethodOptions:
		if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
			header.Set("Access-Control-Allow-Private-Network", "true")
		}
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPost:
		h.take(w, r)
	default:
		header.Set("Allow", "POST, OPTIONS")
		refuse(w, http.StatusMethodNotAllowed, "method not allowed")
	}
}

// take judges what the page sends.
func (h *handover) take(w http.ResponseWriter, r *http.Request) {
	var sent struct {
		Token string `json:"token"`
		Code  string `json:"code"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxHandover)).Decode(&sent)
	switch {
	case err != nil || sent.Token == "" || sent.Code == "":
		refuse(w, http.StatusBadRequest, "missing token or code")
		return
	case subtle.ConstantTimeCompare([]byte(sent.Code), []byte(h.code)) != 1:
		refuse(w, http.StatusForbidden, "confirmation code mismatch")
		return
	case checkWord(sent.Token) != nil:
		refuse(w, http.StatusBadRequest, "the token is not one word")
		return
	}
	select {
	case h.tokens <- sent.Token:
		answer200(w)
	default:
		refuse(w, http.StatusGone, "this login is already complete")
	}
}

func answer200(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	// A page that went away needs no answer.
	_, _ = io.WriteString(w, `{"ok":true}`+"\n")
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// As above.
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// checkWord tells what keeps a token from being put into a header.
func checkWord(token string) error {
	switch {
	case len(token) > maxTokenFile:
		return fmt.Errorf("it has more than %d bytes", maxTokenFile)
	case token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == ';' || r == ',' }):
		return errors.New("it is not one word")
	}
	return nil
}

// EdgeSource hands out the proxy's token of a gateway.
type EdgeSource struct {
	// Gateway is the registration's name, for the words of an error.
	Gateway string
	// EdgeToken is the token.
	EdgeToken string
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Token returns the token, or an error of kind Unauthenticated where it says itself that it has expired.
func (s EdgeSource) Token(context.Context) (string, error) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	if err := checkWord(s.EdgeToken); err != nil {
		return "", fault.Wrap(err, fault.Unauthenticated, ReasonExpired, "the stored token of gateway '%s' cannot be used", s.Gateway).
			WithNext("run `sallyport gateway login %s`", s.Gateway)
	}
	if end := expiry(s.EdgeToken); !end.IsZero() && !now().Before(end) {
		return "", fault.New(fault.Unauthenticated, ReasonExpired, "the session with gateway '%s' has expired", s.Gateway).
			WithNext("run `sallyport gateway login %s`", s.Gateway)
	}
	return s.EdgeToken, nil
}

// String keeps the token out of logs.
func (s EdgeSource) String() string { return "EdgeSource(" + s.Gateway + ")" }

// expiry is the end that a JWT names, unverified; zero for none.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0)
}
