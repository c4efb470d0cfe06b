package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/audit"
)

const (
	sendTimeout = 15 * time.Second
	// maxAnswer bounds what is read of a receiver's answer.
	maxAnswer = 64 << 10
	// maxRetryAfter bounds how long a receiver may ask to be left alone.
	maxRetryAfter = 5 * time.Minute
)

// SendError is why a receiver did not take records.
type SendError struct {
	// Refused tells that these very records will never be taken; otherwise trying again may help.
	Refused bool
	// RetryAfter is how long the receiver asked to wait; 0 if it did not.
	RetryAfter time.Duration
	err        error
}

// Error says what happened.
func (e *SendError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.err }

// Sender posts records to a receiver of OTLP over HTTP.
type Sender struct {
	url     string
	origin  Origin
	headers map[string]string
	client  *http.Client
}

// NewSender returns a Sender to an endpoint, to which "/v1/logs" is added unless it ends with that already. headers are
// sent along, for receivers that want a credential. client is used with redirects off; nil is one of its own.
func NewSender(endpoint string, headers map[string]string, origin Origin, client *http.Client) (*Sender, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the OTLP endpoint must be an http or https URL, got %q", endpoint)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the OTLP endpoint must have no user, query or fragment")
	}
	if !strings.HasSuffix(u.Path, "/v1/logs") {
		u = u.JoinPath("v1", "logs")
	}
	own := http.Client{Timeout: sendTimeout}
	if client != nil {
		own = *client
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Sender{url: u.String(), origin: origin, headers: headers, client: &own}, nil
}

// Close releases idle connections.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Send posts records and returns how many of them the receiver rejected although it took the request. Its errors are
// *SendError.
func (s *Sender) Send(ctx context.Context, records []audit.Record) (rejected int64, err error) {
	body, err := Request(records, s.origin)
	if err != nil {
		return 0, &SendError{Refused: true, err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, &SendError{Refused: true, err: err}
	}
	for k, v := range s.headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, &SendError{err: fmt.Errorf("send audit records: %w", err)}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return 0, refusal(resp)
	}
	if err != nil {
		return 0, &SendError{err: fmt.Errorf("send audit records: read the answer: %w", err)}
	}
	return rejectedIn(answer), nil
}

// refusal words an answer that is no success. The receiver's own text is left out: it may quote what it was sent.
func refusal(resp *http.Response) *SendError {
	e := &SendError{err: fmt.Errorf("the receiver of audit records answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		e.Refused = true
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			e.RetryAfter = min(time.Duration(s)*time.Second, maxRetryAfter)
		}
	}
	return e
}

// rejectedIn reads how many records a receiver rejected out of its answer. One that answers something else, as some
// do, took them all.
func rejectedIn(answer []byte) int64 {
	var a struct {
		PartialSuccess struct {
			Rejected json.RawMessage `json:"rejectedLogRecords"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.Trim(string(a.PartialSuccess.Rejected), `"`), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
