// Package kubeclient makes single calls of the Kubernetes API over plain HTTP, as a pod does them with the token of
// its service account. It knows how the server is found, trusted and answered, and must not know what the objects
// mean. It is for the few calls that the gateway makes itself; whoever watches objects needs a whole client library.
package kubeclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// Files that every pod has, unless its service account's token is not mounted.
const (
	DefaultCAPath    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	DefaultTokenPath = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

const (
	variableHost = "KUBERNETES_SERVICE_HOST"
	variablePort = "KUBERNETES_SERVICE_PORT"

	defaultTimeout = 5 * time.Second
	maxAnswer      = 2 << 20
	maxCredential  = 64 << 10
	maxHeaders     = 64 << 10
	maxIdle        = 4
	maxReason      = 64
)

// ErrNotFound reports an object that is not there.
var ErrNotFound = errors.New("not found")

// StatusError is a refusal of the server. It holds nothing of what the server said but its code and the reason, one
// of a fixed set of words.
type StatusError struct {
	Method, Path string
	Code         int
	Reason       string
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: status %d, reason %q", e.Method, e.Path, e.Code, e.Reason)
}

// Is makes a 404 an ErrNotFound.
func (e *StatusError) Is(target error) bool {
	return target == ErrNotFound && e.Code == http.StatusNotFound
}

// Code returns the HTTP status of a refusal; 0 for any other error.
func Code(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Code
	}
	return 0
}

// Config says where the server is and who is asking.
type Config struct {
	// URL is the base URL of the API server, https only; empty takes it from the variables that every pod has.
	URL string
	// CAPath is the file of the API server's authorities, TokenPath that of the caller's token; empty means the files
	// that every pod has. Both are read again when they change.
	CAPath, TokenPath string
	// Timeout bounds each call; 0 means five seconds.
	Timeout time.Duration
	// Env looks up variables; nil is os.LookupEnv.
	Env func(string) (string, bool)
}

// Client is safe for concurrent use.
type Client struct {
	base              *url.URL
	caPath, tokenPath string
	timeout           time.Duration

	// mu guards the client, which is made anew when the authorities change.
	mu     sync.Mutex
	client *http.Client
	ca     []byte
}

// New checks the configuration. The server may be away.
func New(c Config) (*Client, error) {
	if c.Env == nil {
		c.Env = os.LookupEnv
	}
	raw := c.URL
	if raw == "" {
		host, ok := c.Env(variableHost)
		port, ok2 := c.Env(variablePort)
		if !ok || !ok2 || host == "" || port == "" {
			return nil, fmt.Errorf("no URL of the API server, and no %s and %s as in a pod", variableHost, variablePort)
		}
		raw = "https://" + net.JoinHostPort(host, port)
	}
	base, err := url.Parse(raw)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the URL of the API server must be https://host[:port][/path]")
	}
	if base.Scheme != "https" {
		return nil, errors.New("the API server must be reached by https: tokens are sent there")
	}
	client := &Client{base: base, caPath: c.CAPath, tokenPath: c.TokenPath, timeout: c.Timeout}
	if client.caPath == "" {
		client.caPath = DefaultCAPath
	}
	if client.tokenPath == "" {
		client.tokenPath = DefaultTokenPath
	}
	if client.timeout <= 0 {
		client.timeout = defaultTimeout
	}
	return client, nil
}

// Close releases idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// Call makes one call: path is below the base URL and may have a query, in is the object that is sent, nil for none, and out takes the object
// that comes back. A PATCH is a merge patch. A refusal is a *StatusError; no error holds a token or what the server
// said, but for the code and the reason.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.request(ctx, method, path, in)
	if err != nil {
		return err
	}
	client, err := c.current()
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the API server's answer: %w", err)
	case len(raw) > maxAnswer:
		return fmt.Errorf("%s %s: answer of more than %d bytes", method, path, maxAnswer)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return &StatusError{Method: method, Path: path, Code: resp.StatusCode, Reason: reasonOf(raw)}
	}
	if json.Unmarshal(raw, out) != nil {
		// The decoder's own words may quote the answer.
		return fmt.Errorf("%s %s: answer is not the object that was asked for", method, path)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("%s %s: encode the object: %w", method, path, err)
		}
	}
	token, err := readSmall(c.tokenPath)
	if err != nil {
		return nil, fmt.Errorf("read the gateway's own token: %w", err)
	}
	path, query, _ := strings.Cut(path, "?")
	target := c.base.JoinPath(path)
	target.RawQuery = query
	r, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Accept", "application/json")
	switch {
	case in != nil && method == http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	case in != nil:
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// reasonOf reads the reason of a failure from the API server's status object.
func reasonOf(raw []byte) string {
	var status struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(raw, &status) != nil || len(status.Reason) > maxReason {
		return ""
	}
	return status.Reason
}

// current returns the client for the authorities that are in the file now.
func (c *Client) current() (*http.Client, error) {
	ca, err := readSmall(c.caPath)
	if err != nil {
		return nil, fmt.Errorf("read the API server's authorities: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil && bytes.Equal(ca, c.ca) {
		return c.client, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", c.caPath)
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.ca = ca
	c.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: c.timeout}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    c.timeout,
			ResponseHeaderTimeout:  c.timeout,
			MaxResponseHeaderBytes: maxHeaders,
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		},
		// A redirect would carry the tokens elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c.client, nil
}

// readSmall reads a file that Kubernetes may replace at any time.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err == nil && len(raw) > maxCredential {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxCredential)
	}
	return raw, err
}
