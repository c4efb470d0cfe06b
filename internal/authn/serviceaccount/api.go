package serviceaccount

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

// Words of the Kubernetes API and of the objects that compute drivers make there.
const (
	usernamePrefix    = "system:serviceaccount:"
	extraPodName      = "authentication.kubernetes.io/pod-name"
	extraPodUID       = "authentication.kubernetes.io/pod-uid"
	annotationSandbox = "openshell.io/sandbox-id"
	labelSandbox      = "openshell.ai/sandbox-id"
	kindSandbox       = "Sandbox"
)

// sandboxVersions are the API versions of Sandbox objects, the newer first.
var sandboxVersions = []string{"agents.x-k8s.io/v1beta1", "agents.x-k8s.io/v1alpha1"}

const (
	maxAnswer     = 2 << 20
	maxCredential = 64 << 10
	maxHeaders    = 64 << 10
	maxIdle       = 4
)

// errNotFound reports an object that is not there.
var errNotFound = errors.New("not found")

// tokenReview is as much of a TokenReview as is needed.
type tokenReview struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Spec       reviewSpec   `json:"spec"`
	Status     reviewStatus `json:"status,omitzero"`
}

type reviewSpec struct {
	Token     string   `json:"token"`
	Audiences []string `json:"audiences"`
}

type reviewStatus struct {
	Authenticated bool     `json:"authenticated"`
	User          user     `json:"user"`
	Audiences     []string `json:"audiences"`
}

type user struct {
	Username string              `json:"username"`
	Extra    map[string][]string `json:"extra"`
}

// object is as much of a pod or a Sandbox object as is needed.
type object struct {
	Metadata struct {
		UID             string            `json:"uid"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
		OwnerReferences []ownerReference  `json:"ownerReferences"`
	} `json:"metadata"`
}

type ownerReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

// api calls the API server.
type api struct {
	base              *url.URL
	caPath, tokenPath string
	timeout           time.Duration

	// mu guards the client, which is made anew when the authorities change.
	mu     sync.Mutex
	client *http.Client
	ca     []byte
}

func newAPI(c Config) (*api, error) {
	raw := c.APIURL
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
	a := &api{base: base, caPath: c.CAPath, tokenPath: c.TokenPath, timeout: c.Timeout}
	if a.caPath == "" {
		a.caPath = DefaultCAPath
	}
	if a.tokenPath == "" {
		a.tokenPath = DefaultTokenPath
	}
	return a, nil
}

// review asks whose token it is.
func (a *api) review(ctx context.Context, token, audience string) (reviewStatus, error) {
	in := tokenReview{
		APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview",
		Spec: reviewSpec{Token: token, Audiences: []string{audience}},
	}
	body, err := json.Marshal(in)
	if err != nil {
		return reviewStatus{}, fmt.Errorf("encode token review: %w", err)
	}
	var out tokenReview
	err = a.call(ctx, http.MethodPost, "apis/authentication.k8s.io/v1/tokenreviews", body, &out)
	return out.Status, err
}

func (a *api) pod(ctx context.Context, namespace, name string) (*object, error) {
	var out object
	return &out, a.call(ctx, http.MethodGet, "api/v1/namespaces/"+namespace+"/pods/"+name, nil, &out)
}

func (a *api) sandbox(ctx context.Context, version, namespace, name string) (*object, error) {
	var out object
	return &out, a.call(ctx, http.MethodGet, "apis/"+version+"/namespaces/"+namespace+"/sandboxes/"+name, nil, &out)
}

// call makes one call. Its errors hold neither tokens nor what the server said, but for the code and the reason.
func (a *api) call(ctx context.Context, method, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client, err := a.current()
	if err != nil {
		return err
	}
	token, err := readSmall(a.tokenPath)
	if err != nil {
		return fmt.Errorf("read the gateway's own token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
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
	case resp.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return errNotFound
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return fmt.Errorf("%s %s: status %d, reason %q", method, path, resp.StatusCode, reasonOf(raw))
	}
	if err := json.Unmarshal(raw, out); err != nil {
		// The decoder's own words may quote the answer.
		return fmt.Errorf("%s %s: answer is not the object that was asked for", method, path)
	}
	return nil
}

// reasonOf reads the reason of a failure, one of a fixed set of words, from the API server's status object.
func reasonOf(raw []byte) string {
	var status struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(raw, &status) != nil || len(status.Reason) > 64 {
		return ""
	}
	return status.Reason
}

// current returns the client for the authorities that are in the file now.
func (a *api) current() (*http.Client, error) {
	ca, err := readSmall(a.caPath)
	if err != nil {
		return nil, fmt.Errorf("read the API server's authorities: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil && bytes.Equal(ca, a.ca) {
		return a.client, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", a.caPath)
	}
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	a.ca = ca
	a.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: a.timeout}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    a.timeout,
			ResponseHeaderTimeout:  a.timeout,
			MaxResponseHeaderBytes: maxHeaders,
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		},
		// A redirect would carry the tokens elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a.client, nil
}

func (a *api) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
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
