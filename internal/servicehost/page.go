package servicehost

import (
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/fault"
)

// retryAfter is what a caller is told that was refused because of a limit.
const retryAfter = 5 * time.Second

// statusOf is the status for a refusal, as the reference has them.
func statusOf(f *fault.Error) int {
	switch f.Kind {
	case fault.InvalidArgument:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.PermissionDenied:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.FailedPrecondition:
		return http.StatusPreconditionFailed
	case fault.ResourceExhausted:
		return http.StatusTooManyRequests
	case fault.Unavailable, fault.DeadlineExceeded:
		if f.Reason == errShutdown.Reason {
			return http.StatusServiceUnavailable
		}
		return http.StatusBadGateway
	default:
		return http.StatusInternalServerError
	}
}

// refuse answers with why a request goes no further, and records it.
func (a *attempt) refuse(err error) {
	f := fault.From(err)
	status := statusOf(f)
	a.h.cfg.Observe(status)
	if status == http.StatusInternalServerError {
		a.h.cfg.Logger.Error("request to a service failed", "error", err, "request_id", a.requestID)
	} else {
		a.h.cfg.Logger.Debug("request to a service refused", "status", status, "error", err, "request_id", a.requestID)
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
		a.record(ActionRequest, audit.Denied, f.Reason, nil)
	}
	header := a.w.Header()
	for name := range header {
		header.Del(name) // What came of an answer that is not given.
	}
	if status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="sallyport"`)
	}
	if status == http.StatusTooManyRequests {
		header.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	a.write(status, page{
		Status: status, Title: sentence(f.Message), Next: f.Next, RequestID: a.requestID, SignIn: a.signIn(status),
	})
}

// signIn is the command that lets a browser in, for who has not signed in. It is made of the host alone, so that it says
// nothing of what there is.
func (a *attempt) signIn(status int) string {
	if status != http.StatusUnauthorized || a.name.Sandbox == "" {
		return ""
	}
	words := []string{"sallyport service open", a.name.Sandbox}
	if a.name.Service != "" {
		words = append(words, a.name.Service)
	}
	return strings.Join(append(words, "--workspace", a.name.Workspace), " ")
}

// sentence begins a message with a capital, as the reference does.
func sentence(message string) string {
	if message == "" {
		return message
	}
	return strings.ToUpper(message[:1]) + message[1:]
}

// page is what an answer of the gateway itself says.
type page struct {
	Status    int
	Title     string
	Next      string
	SignIn    string
	RequestID string
}

// pages escape every value for the place where it stands.
var pages = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title></head>
<body><h1>{{.Title}}</h1>
{{if .SignIn}}<p>This is a service in a sandbox. To open it in this browser, run:</p><pre>{{.SignIn}}</pre>
<p>A program sends the gateway's token in the header Authorization.</p>
{{else if .Next}}<p>{{.Next}}</p>
{{end}}<p><small>request {{.RequestID}}</small></p></body></html>
`))

// write writes a page of the gateway's own, for people or for programs.
func (a *attempt) write(status int, p page) {
	header := a.w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set(headerRequestID, a.requestID)
	if strings.Contains(a.r.Header.Get("Accept"), "text/html") {
		header.Set("Content-Type", "text/html; charset=utf-8")
		a.w.WriteHeader(status)
		if err := pages.Execute(a.w, p); err != nil {
			a.h.cfg.Logger.Debug("a page was not sent", "error", err, "request_id", a.requestID)
		}
		return
	}
	lines := []string{p.Title}
	if p.SignIn != "" {
		lines = append(lines, "run `"+p.SignIn+"`, or send the gateway's token in the header Authorization")
	} else if p.Next != "" {
		lines = append(lines, p.Next)
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	a.w.WriteHeader(status)
	if _, err := a.w.Write([]byte(strings.Join(append(lines, "request "+p.RequestID), "\n") + "\n")); err != nil {
		a.h.cfg.Logger.Debug("an answer was not sent", "error", err, "request_id", a.requestID)
	}
}

// record records what came of the request.
func (a *attempt) record(action, verdict, reason string, details map[string]string) {
	r := audit.Record{
		Time: a.h.cfg.Now(), Actor: a.caller.principal.Actor(), ActorKind: "anonymous", Action: action,
		Verdict: verdict, Reason: reason, RequestID: a.requestID, Remote: callinfo.Host(a.remote), Details: details,
	}
	if a.name.Sandbox != "" {
		r.Target = a.name.String()
	}
	if p := a.caller.principal; p != nil {
		r.ActorKind, r.Tenant = p.Kind.String(), p.Tenant
	}
	a.h.cfg.Audit.Record(r)
}

// sessionEnded records the end of a browser's session.
func (h *Handler) sessionEnded(t *ticket, why error) {
	reason := "done"
	if f, ok := errors.AsType[*fault.Error](why); ok {
		reason = f.Reason
	}
	h.cfg.Audit.Record(audit.Record{
		Time: h.cfg.Now(), Actor: t.user.Actor(), ActorKind: t.user.Kind.String(), Tenant: t.user.Tenant, Action: audit.ActionSessionClose,
		Target: t.name.String(), Verdict: audit.Allowed,
		Details: map[string]string{
			"via": via, "session": t.id, "reason": reason, "lasted": h.cfg.Now().Sub(t.created).Round(time.Second).String(),
		},
	})
}
