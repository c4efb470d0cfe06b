package sshconnect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/sshsession"
)

const (
	headerRequestID = "X-Request-Id"
	// retryAfter is what a client is told that was refused because of a limit.
	retryAfter = 10 * time.Second
)

// attempt is one request on its way to a connection, with what is recorded of it.
type attempt struct {
	h         *Handler
	w         http.ResponseWriter
	r         *http.Request
	remote    net.Addr
	requestID string
	// spent says that too many credentials from this address were wrong.
	spent  bool
	record audit.Record
	since  time.Time
}

func newAttempt(h *Handler, w http.ResponseWriter, r *http.Request) *attempt {
	a := &attempt{h: h, w: w, r: r, remote: callinfo.Remote(r), requestID: callinfo.RequestID(r.Header.Values(headerRequestID))}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set(headerRequestID, a.requestID)
	a.record = audit.Record{
		Actor: "anonymous", ActorKind: "anonymous", Action: audit.ActionSessionOpen, RequestID: a.requestID,
		Remote: callinfo.Host(a.remote), Details: map[string]string{"via": Path},
	}
	return a
}

// ask reads the request. It has answered unless ok.
func (a *attempt) ask() (sandboxID, token string, ok bool) {
	r := a.r
	if r.Method != http.MethodConnect {
		a.w.Header().Set("Allow", http.MethodConnect)
		a.refuse(http.StatusMethodNotAllowed, fault.New(fault.InvalidArgument, "METHOD", "an SSH connection is made with CONNECT"))
		return "", "", false
	}
	if r.ProtoMajor != 1 {
		a.refuse(http.StatusHTTPVersionNotSupported, fault.New(fault.InvalidArgument, "HTTP_VERSION", "an SSH connection is made over HTTP/1.1"))
		return "", "", false
	}
	if r.ContentLength != 0 {
		// Whoever stands between could see the connection begin in another place than we do.
		a.refuse(http.StatusBadRequest, fault.New(fault.InvalidArgument, "BODY", "a CONNECT request has no body"))
		return "", "", false
	}
	ids, tokens := r.Header.Values(HeaderSandboxID), r.Header.Values(HeaderToken)
	credential := len(tokens) > 0
	var err error
	if a.spent, err = a.h.cfg.Limiter.Attempt(a.remote, Path, credential); err != nil {
		a.refuse(http.StatusTooManyRequests, err)
		return "", "", false
	}
	for _, h := range []struct {
		name   string
		values []string
	}{{HeaderSandboxID, ids}, {HeaderToken, tokens}} {
		switch {
		case len(h.values) == 0:
			a.refuse(http.StatusUnauthorized, fault.New(fault.Unauthenticated, "HEADER_MISSING", "missing header %s", strings.ToLower(h.name)).
				WithNext("create an SSH session for the sandbox and send its token"))
			return "", "", false
		case len(h.values) > 1 || !sane(h.values[0]):
			a.refuse(http.StatusBadRequest, fault.New(fault.InvalidArgument, "HEADER_INVALID", "header %s is empty or no plain text", strings.ToLower(h.name)))
			return "", "", false
		}
	}
	a.record.Target = "sandbox/" + cut(ids[0])
	return ids[0], tokens[0], true
}

// maxTarget bounds what a record repeats of a request, in bytes.
const maxTarget = 128

func cut(s string) string { return s[:min(len(s), maxTarget)] }

// sane tells whether a header's value is printable ASCII and there at all.
func sane(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return strings.TrimSpace(value) != ""
}

// turnAway answers with why the sessions let nobody in.
func (a *attempt) turnAway(err error) {
	f := fault.From(err)
	status := statusOf(f.Kind)
	if f.Reason == sshsession.ReasonTokenUnknown || f.Reason == sshsession.ReasonTokenInvalid {
		// A token that is authentic but over is no guess.
		a.h.cfg.Limiter.Failed(a.remote)
		if a.spent {
			status = http.StatusTooManyRequests
		}
	}
	a.refuse(status, f)
}

// statusOf is the status for a refusal of the sessions.
func statusOf(k fault.Kind) int {
	switch k {
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.NotFound:
		return http.StatusNotFound
	case fault.FailedPrecondition:
		return http.StatusPreconditionFailed
	case fault.ResourceExhausted:
		return http.StatusTooManyRequests
	default:
		return http.StatusInternalServerError
	}
}

// of notes whose connection it is.
func (a *attempt) of(c *sshsession.Connection) {
	a.record.Actor, a.record.ActorKind, a.record.Tenant = c.Caller.Actor(), c.Caller.Kind.String(), c.Caller.Tenant
	a.record.Details["session"] = c.Session.ID
}

// notReached answers that there is no way to the sandbox, unless the connection lost what it lives on meanwhile.
func (a *attempt) notReached(c *sshsession.Connection, err error) {
	status := http.StatusBadGateway
	if f, ok := errors.AsType[*fault.Error](context.Cause(c.Context())); ok {
		err = f
		if f.Kind != fault.Unavailable {
			status = statusOf(f.Kind)
		}
	}
	a.refuse(status, err)
}

// refuse answers with a status and says why.
func (a *attempt) refuse(status int, err error) {
	f := fault.From(err)
	// What the client may have sent behind its request is no other request.
	a.w.Header().Set("Connection", "close")
	if status == http.StatusTooManyRequests {
		a.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	text := f.Message
	if f.Next != "" {
		text += "; " + f.Next
	}
	a.h.cfg.Observe(status)
	if status == http.StatusInternalServerError {
		a.h.cfg.Logger.Error("SSH connection failed", "error", err, "request_id", a.requestID)
	} else {
		a.h.cfg.Logger.Debug("SSH connection refused", "status", status, "error", err, "request_id", a.requestID)
	}
	verdict := audit.Failed
	switch status {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusTooManyRequests:
		verdict = audit.Denied
	}
	if status != http.StatusMethodNotAllowed && status != http.StatusHTTPVersionNotSupported && status != http.StatusBadRequest {
		a.write(a.record, verdict, f.Reason)
	}
	http.Error(a.w, text, status)
}

// accept takes the connection over and answers that it stands. When it fails, the connection is closed.
func (a *attempt) accept() (*peer, error) {
	conn, buffered, err := http.NewResponseController(a.w).Hijack()
	if err != nil {
		a.refuse(http.StatusInternalServerError, fmt.Errorf("take over the connection: %w", err))
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(answerTimeout))
	_, err = fmt.Fprintf(buffered, "HTTP/1.1 200 OK\r\n%s: %s\r\n\r\n", headerRequestID, a.requestID)
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		conn.Close()
		a.write(a.record, audit.Failed, "CLIENT_GONE")
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return newPeer(conn, buffered.Reader), nil
}

// opened records that the connection stands.
func (a *attempt) opened() {
	a.h.cfg.Observe(http.StatusOK)
	a.since = a.h.cfg.Now()
	a.write(a.record, audit.Allowed, "")
}

// closed records the end of the connection.
func (a *attempt) closed(o pipe.Outcome) {
	r := a.record
	r.Action = audit.ActionSessionClose
	reason := "done"
	if f, ok := errors.AsType[*fault.Error](o.Err); ok {
		reason = f.Reason
	} else if o.Err != nil {
		reason = "CLIENT_GONE"
	}
	r.Details = map[string]string{
		"via": Path, "session": a.record.Details["session"], "reason": reason,
		"lasted": a.h.cfg.Now().Sub(a.since).Round(time.Millisecond).String(),
		"up":     strconv.FormatInt(o.Up, 10), "down": strconv.FormatInt(o.Down, 10),
	}
	a.write(r, audit.Allowed, "")
}

func (a *attempt) write(r audit.Record, verdict, reason string) {
	r.Time, r.Verdict, r.Reason = a.h.cfg.Now(), verdict, reason
	a.h.cfg.Audit.Record(r)
}
