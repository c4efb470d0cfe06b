package servicehost

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/service"
)

// maxLinkRequest bounds the body of a request for a link, in bytes.
const maxLinkRequest = 4 << 10

// linkRequest and linkAnswer are what is said at PathLink, as JSON.
type linkRequest struct {
	Workspace string `json:"workspace"`
	Sandbox   string `json:"sandbox"`
	Service   string `json:"service"`
}

type linkAnswer struct {
	// URL signs one browser in, once.
	URL string `json:"url"`
	// ExpiresInSecs is how long it does.
	ExpiresInSecs int `json:"expires_in_secs"`
}

// linkError is the answer to who gets no link.
type linkError struct {
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Next      string `json:"next,omitempty"`
	RequestID string `json:"request_id"`
}

// Links serves PathLink: a program that shows the gateway's credential gets a link to a service, which signs the browser
// that opens it in to that service. It is on the gateway's own host, so that no credential is sent to the host of a
// service.
func (h *Handler) Links() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := newAttempt(h, w, r, service.Name{})
		ans, err := a.link(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set(headerRequestID, a.requestID)
		status, body := http.StatusOK, any(ans)
		verdict, reason := audit.Allowed, ""
		if err != nil {
			f := fault.From(err)
			status, reason = statusOf(f), f.Reason
			body = linkError{Reason: f.Reason, Message: f.Message, Next: f.Next, RequestID: a.requestID}
			verdict = audit.Denied
			if status == http.StatusInternalServerError {
				verdict = audit.Failed
				h.cfg.Logger.Error("link to a service failed", "error", err, "request_id", a.requestID)
			}
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
			}
		}
		if status != http.StatusBadRequest {
			a.record(ActionLink, verdict, reason, nil)
		}
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(body); err != nil {
			h.cfg.Logger.Debug("an answer was not sent", "error", err, "request_id", a.requestID)
		}
	})
}

// link makes a link for the caller.
func (a *attempt) link(ctx context.Context) (*linkAnswer, error) {
	r := a.r
	bad := func(message string) error {
		return fault.New(fault.InvalidArgument, ReasonBadRequest, "%s", message).WithNext("use `sallyport service open`")
	}
	if r.Method != http.MethodPost {
		return nil, bad("a link is asked for with POST")
	}
	// Pages of browsers have no business here, and the one header that they cannot leave out tells them.
	if len(r.Header["Origin"]) > 0 || r.Header.Get("Sec-Fetch-Site") != "" {
		return nil, crossOrigin()
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, bad("the request must be application/json")
	}
	c, err := a.recognise(ctx, r.Header[HeaderAuthorization])
	if err != nil {
		return nil, err
	}
	a.caller = c
	if err := a.admit(c); err != nil {
		return nil, err
	}
	var req linkRequest
	body := json.NewDecoder(http.MaxBytesReader(a.w, r.Body, maxLinkRequest))
	if err := body.Decode(&req); err != nil {
		return nil, bad("the request cannot be read")
	}
	if _, err := body.Token(); !errors.Is(err, io.EOF) {
		return nil, bad("something follows the request")
	}
	e, _, err := a.h.cfg.Services.Find(c.principal, service.Name{Workspace: req.Workspace, Sandbox: req.Sandbox, Service: req.Service})
	if err != nil {
		return nil, err
	}
	a.name = e.Name
	if c.principal.Kind != principal.User {
		return nil, fault.New(fault.PermissionDenied, "USERS_ONLY", "links to services are for users")
	}
	_, secret, _, err := a.h.links.issue(c.principal, e)
	if err != nil {
		return nil, err
	}
	return &linkAnswer{
		URL:           strings.TrimSuffix(a.h.address.URL(e.Name), "/") + PathSignIn + "?code=" + secret,
		ExpiresInSecs: int(LinkTTL / time.Second),
	}, nil
}

// own answers what is the gateway's on a service's host.
func (a *attempt) own() error {
	switch {
	case a.r.URL.Path == PathSignIn && (a.r.Method == http.MethodGet || a.r.Method == http.MethodHead):
		return a.enterByLink()
	case a.r.URL.Path == PathSignOut && a.r.Method == http.MethodPost:
		return a.leave()
	}
	return fault.New(fault.NotFound, "PAGE_NOT_FOUND", "there is no such page").
		WithNext("paths below %s are the gateway's, and not the program's", pathReserved)
}

var errLink = fault.New(fault.PermissionDenied, ReasonLink, "this link has been used, or it has expired").
	WithNext("run `sallyport service open` again")

// enterByLink signs a browser in. What only looks ahead, or shows the page in a frame, uses no link up.
func (a *attempt) enterByLink() error {
	r := a.r
	for name, want := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Purpose": "", "Purpose": ""} {
		if got := r.Header.Get(name); got != "" && got != want {
			return crossOrigin()
		}
	}
	if r.Method == http.MethodHead {
		a.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	spent, err := a.h.cfg.Limiter.Attempt(a.remote, Method, true)
	if err != nil {
		return err
	}
	if spent {
		return fault.New(fault.ResourceExhausted, ReasonTooMuch, "too many attempts from this address").WithNext("try again later")
	}
	link := a.h.links.take(r.URL.Query().Get("code"))
	if link == nil || link.name != a.name {
		a.h.cfg.Limiter.Failed(a.remote)
		return errLink
	}
	a.caller.principal = link.user
	e, err := a.h.entitled(link)
	if err != nil {
		return err
	}
	session, secret, gone, err := a.h.sessions.issue(link.user, e)
	if err != nil {
		return err
	}
	if gone != nil {
		a.h.sessionEnded(gone, fault.New(fault.ResourceExhausted, ReasonTooMany, "replaced by a newer one"))
	}
	a.record(audit.ActionSessionOpen, audit.Allowed, "", map[string]string{"via": via, "by": string(bySession), "session": session.id})
	a.setCookie(secret, int(a.h.cfg.SessionTTL/time.Second))
	a.w.Header().Set("Location", "/")
	a.w.Header().Set("Cache-Control", "no-store")
	a.w.Header().Set("Referrer-Policy", "no-referrer")
	a.h.cfg.Observe(http.StatusSeeOther)
	a.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// leave signs a browser out.
func (a *attempt) leave() error {
	if foreign(a.r) {
		return crossOrigin()
	}
	t := a.h.sessions.find(cookieOf(a.r))
	if t != nil && t.name == a.name && a.h.sessions.remove(t) {
		a.h.sessionEnded(t, nil)
	}
	a.setCookie("", -1)
	a.h.cfg.Observe(http.StatusOK)
	a.write(http.StatusOK, page{Status: http.StatusOK, Title: "Signed out", RequestID: a.requestID})
	return nil
}

// setCookie sets the session's cookie: for this host alone, out of the reach of scripts, and not for requests that other
// sites make beside navigation.
func (a *attempt) setCookie(value string, maxAge int) {
	http.SetCookie(a.w, &http.Cookie{
		Name: Cookie, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
