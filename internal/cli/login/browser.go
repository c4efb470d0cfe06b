package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// browserTimeout is how long a person has to sign in.
	browserTimeout = 120 * time.Second
	callbackPath   = "/callback"
	// maxCallbackHeader bounds a request to the callback listener, in bytes.
	maxCallbackHeader = 32 << 10
)

// Browser is how a person signs in.
type Browser struct {
	// Client reaches the identity provider.
	Client *http.Client
	// Open shows a URL to the person; nil or an error leaves them with the printed URL.
	Open func(ctx context.Context, url string) error
	// Notes is where the person reads what to do.
	Notes io.Writer
	// PromptLogin makes the provider ask for a user even if its session is still alive.
	PromptLogin bool
	// Port is the listener's, for providers that know the exact address only; 0 means any.
	Port uint16
	// Timeout bounds the wait for the person; 0 means 120 seconds.
	Timeout time.Duration
}

// Login runs the authorization code flow with PKCE (S256) through a listener on 127.0.0.1. Requests that are
// not the answer to this very login are refused and the wait goes on, so that nothing else on the machine can
// end a login.
func (b Browser) Login(ctx context.Context, cfg Config) (profile.Token, error) {
	ends, err := Discover(ctx, b.Client, cfg.Issuer)
	if err != nil {
		return profile.Token{}, err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(b.Port))))
	if err != nil {
		return profile.Token{}, fault.Wrap(err, fault.FailedPrecondition, ReasonListen,
			"cannot listen for the answer of the identity provider: %v", err).
			WithNext("end what uses the port, or choose another that the provider knows with --callback-port")
	}
	host := listener.Addr().String()
	oc := oauthConfig(cfg, ends, "http://"+host+callbackPath)
	verifier := oauth2.GenerateVerifier()
	cb := &callback{host: host, state: rand.Text(), issuer: cfg.Issuer, answers: make(chan answer)}
	server := &http.Server{
		Handler: cb, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: browserTimeout, IdleTimeout: 5 * time.Second,
		MaxHeaderBytes: maxCallbackHeader, ErrorLog: nil,
	}
	served := make(chan error, 1)
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			served <- err
		}
	}()
	defer func() {
		// The page with the outcome is still on its way to the browser.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		for err := range served {
			fmt.Fprintf(b.Notes, "warning: the listener for the browser failed: %v\n", err)
		}
	}()

	params := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if cfg.Audience != "" {
		params = append(params, oauth2.SetAuthURLParam("audience", cfg.Audience))
	}
	if b.PromptLogin {
		params = append(params, oauth2.SetAuthURLParam("prompt", "login"))
	}
	b.show(ctx, oc.AuthCodeURL(cb.state, params...))
	timeout := b.Timeout
	if timeout == 0 {
		timeout = browserTimeout
	}
	return b.wait(ctx, cb, timeout, func(code string) (profile.Token, error) {
		tok, err := oc.Exchange(context.WithValue(ctx, oauth2.HTTPClient, b.Client), code, oauth2.VerifierOption(verifier))
		if err != nil {
			return profile.Token{}, tokenError(err, "exchange the code")
		}
		return bundle(cfg, tok), nil
	})
}

// show opens the browser and always prints the URL, because a browser that was started is not yet a page that
// somebody sees.
func (b Browser) show(ctx context.Context, url string) {
	opened := errors.New("no browser")
	if b.Open != nil {
		fmt.Fprintln(b.Notes, "Opening browser for OIDC authentication...")
		opened = b.Open(ctx, url)
	}
	if opened != nil {
		fmt.Fprintf(b.Notes, "Open this URL in a browser on this machine to sign in:\n\n  %s\n\n", url)
		return
	}
	fmt.Fprintf(b.Notes, "If no page appears, open this URL:\n\n  %s\n\n", url)
	fmt.Fprintln(b.Notes, "Browser opened. Waiting for authentication...")
}

func (b Browser) wait(ctx context.Context, cb *callback, timeout time.Duration,
	exchange func(code string) (profile.Token, error),
) (profile.Token, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return profile.Token{}, context.Cause(ctx)
	case <-timer.C:
		return profile.Token{}, fault.New(fault.DeadlineExceeded, ReasonTimeout,
			"OIDC authentication timed out after %d seconds", int(timeout.Seconds())).
			WithNext("run the command again and finish signing in within that time")
	case a := <-cb.answers:
		if a.refusal != "" {
			err := fault.New(fault.Unauthenticated, ReasonRefused, "the identity provider refused the login: %s", a.refusal).
				WithNext("sign in as a user that may use this gateway")
			a.outcome <- err
			return profile.Token{}, err
		}
		token, err := exchange(a.code)
		a.outcome <- err
		return token, err
	}
}

// answer is what the provider sent with the browser; outcome takes what the page shall say.
type answer struct {
	code    string
	refusal string
	outcome chan<- error
}

// callback receives the browser on its way back from the provider.
type callback struct {
	host    string
	state   string
	issuer  string
	answers chan answer
}

// ServeHTTP implements http.Handler.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.Host != c.host && r.Host != strings.Replace(c.host, "127.0.0.1", "localhost", 1):
		page(w, http.StatusMisdirectedRequest, "Unexpected host.")
		return
	case r.URL.Path != callbackPath:
		page(w, http.StatusNotFound, "not found")
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		page(w, http.StatusMethodNotAllowed, "Method not allowed.")
		return
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(c.state)) != 1:
		page(w, http.StatusForbidden, "State parameter mismatch.")
		return
	case q.Has("iss") && strings.TrimRight(q.Get("iss"), "/") != strings.TrimRight(c.issuer, "/"):
		page(w, http.StatusForbidden, "Issuer mismatch.")
		return
	case q.Get("error") == "" && q.Get("code") == "":
		page(w, http.StatusBadRequest, "Missing authorization code.")
		return
	}
	outcome := make(chan error, 1)
	a := answer{code: q.Get("code"), outcome: outcome}
	if q.Get("error") != "" {
		a.refusal = describe(q.Get("error"), q.Get("error_description"))
	}
	select {
	case c.answers <- a:
	case <-r.Context().Done():
		return
	case <-time.After(2 * time.Second):
		// The login has its answer already.
		page(w, http.StatusGone, "This login is already complete.")
		return
	}
	select {
	case err := <-outcome:
		if err != nil {
			page(w, http.StatusBadRequest, fault.From(err).Message)
			return
		}
		page(w, http.StatusOK, "Authentication successful. You can close this page and return to the terminal.")
	case <-r.Context().Done():
	}
}

var _ http.Handler = (*callback)(nil)

//nolint:gochecknoglobals // A parsed template is a constant.
var callbackPage = template.Must(template.New("callback").Parse(
	"<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Sallyport</title>" +
		"<body><p>{{.}}</p></body></html>\n"))

// page answers with one escaped sentence and forbids the browser everything else.
func page(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	//nolint:errcheck // A browser that went away needs no page.
	callbackPage.Execute(w, text)
}
