package driveroauth2

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	// fetchTimeout bounds one token request, connection and body included.
	fetchTimeout = 15 * time.Second
	// maxAnswerBytes bounds the body of a token endpoint's answer.
	maxAnswerBytes = 256 << 10
	// unstatedLife is how long a token is taken to live whose answer has no expires_in and that carries no exp.
	unstatedLife = time.Minute
)

// NewHTTPClient returns a client fit to carry client secrets: no redirect is followed, time, header and body are
// bounded, and the provider's certificate is checked against the system's roots, or against roots where given.
func NewHTTPClient(roots *x509.CertPool) *http.Client {
	return boundedClient(&http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
	})
}

// boundedClient wraps a transport with the rules every token request obeys.
func boundedClient(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     boundedBody{t},
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

var errAnswerTooLarge = errors.New("answer is larger than 256 KiB")

// boundedBody fails the reading of a body that is too large, instead of cutting it short.
type boundedBody struct{ next http.RoundTripper }

func (b boundedBody) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &cappedReader{ReadCloser: resp.Body, left: maxAnswerBytes}
	return resp, nil
}

type cappedReader struct {
	io.ReadCloser
	left int
}

func (c *cappedReader) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, errAnswerTooLarge
	}
	if len(p) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.ReadCloser.Read(p)
	if c.left -= n; c.left < 0 {
		return 0, errAnswerTooLarge
	}
	return n, err
}

// token is one access token with its life span.
type token struct {
	value, kind      string
	fetched, expires time.Time
}

// fetchToken asks the credential's token endpoint for a token. Its error is fit for callers: it never holds a
// secret, a token or text of the provider's answer.
func fetchToken(ctx context.Context, client *http.Client, c Credential, secret string) (token, error) {
	conf := clientcredentials.Config{
		ClientID: c.ClientID, ClientSecret: secret, TokenURL: c.TokenEndpoint, Scopes: c.Scopes,
		AuthStyle: oauth2.AuthStyleInParams,
	}
	if c.ClientAuth == ClientAuthBasic {
		conf.AuthStyle = oauth2.AuthStyleInHeader
	}
	if c.Audience != "" {
		conf.EndpointParams = url.Values{"audience": {c.Audience}}
	}
	start := time.Now()
	got, err := conf.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return token{}, describeFetchError(err)
	}
	if strings.ContainsFunc(got.AccessToken, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		return token{}, errors.New("token endpoint answered an access token with characters a token cannot have")
	}
	t := token{value: got.AccessToken, kind: got.TokenType, fetched: start, expires: got.Expiry}
	if t.kind == "" {
		t.kind = "bearer"
	}
	if t.expires.IsZero() {
		if exp, ok := jwtExpiry(t.value); ok {
			t.expires = exp
		} else {
			t.expires = start.Add(unstatedLife)
		}
	}
	return t, nil
}

// knownCodes are the error codes of RFC 6749 section 5.2; only these are repeated to a caller.
var knownCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

func describeFetchError(err error) error {
	// The library keeps the text of a body's error, not the error.
	if strings.Contains(err.Error(), errAnswerTooLarge.Error()) {
		return fmt.Errorf("token endpoint's %w", errAnswerTooLarge)
	}
	if re, ok := errors.AsType[*oauth2.RetrieveError](err); ok && re.Response != nil {
		code := re.Response.StatusCode
		switch {
		case code >= 300 && code < 400:
			return fmt.Errorf("token endpoint answered %d: a redirect is not followed with a secret; set token_endpoint to the final address", code)
		case slices.Contains(knownCodes, re.ErrorCode):
			return fmt.Errorf("token endpoint answered %d %s", code, re.ErrorCode)
		case code == http.StatusOK:
			return errors.New("token endpoint answered 200 with an error in place of a token")
		}
		return fmt.Errorf("token endpoint answered %d", code)
	}
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return fmt.Errorf("token endpoint did not answer within %s", fetchTimeout)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("token endpoint cannot be reached: %w", ue.Err)
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("driver is stopping")
	}
	return errors.New("token endpoint's answer is no token response")
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// jwtExpiry reads the exp claim of a token that happens to be a JWT. The signature does not matter here: the
// value only decides how long the token is kept.
func jwtExpiry(value string) (time.Time, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0), true
}
