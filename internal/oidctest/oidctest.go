// Package oidctest is an identity provider for tests, in the test's own process: discovery, keys, client
// credentials, and any token a test can think of. It counts what is fetched and fails when told to. It is not for
// people; those get the development provider.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Audience is the audience of the tokens an Issuer mints unless told otherwise.
const Audience = "openshell-cli"

// Issuer is a running provider. Its methods are safe for concurrent use.
type Issuer struct {
	// URL is the issuer's name and the base of its endpoints. Its path has the shape of a Keycloak realm.
	URL string

	tb      testing.TB
	client  *http.Client
	handler http.Handler
	ca      []byte
	now     func() time.Time

	// DiscoveryFetches and KeyFetches count requests, failed ones included.
	DiscoveryFetches atomic.Int64
	KeyFetches       atomic.Int64

	mu        sync.Mutex
	keys      []Key
	rawKeys   func(w http.ResponseWriter, r *http.Request)
	discovery map[string]any
	failing   bool
	gate      chan struct{}
	serial    int
	clients   map[string]Client
}

// Key is a signing key with what the key set says about it.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
	// Published is the entry in the key set; tests change it to say less or something else.
	Published map[string]any
}

// Client may ask for a token with its secret; Claims are added to the token.
type Client struct {
	Secret string
	Claims map[string]any
}

const realmPath = "/realms/openshell"

// New starts a provider with one ES256 key on a socket. It stops with the test.
func New(tb testing.TB) *Issuer {
	tb.Helper()
	i := newIssuer(tb)
	server := httptest.NewServer(i.mux(realmPath))
	tb.Cleanup(server.Close)
	i.URL = server.URL + realmPath
	i.client = server.Client()
	return i
}

// NewTLS is New with a server certificate of an authority of its own, which CA returns.
func NewTLS(tb testing.TB) *Issuer {
	tb.Helper()
	i := newIssuer(tb)
	server := httptest.NewUnstartedServer(i.mux(realmPath))
	// A client that does not trust the authority makes the server complain.
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	certificate, err := selfSigned()
	if err != nil {
		tb.Fatalf("make a server certificate: %v", err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	tb.Cleanup(server.Close)
	i.URL = server.URL + realmPath
	i.client = server.Client()
	i.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	return i
}

// selfSigned makes a certificate for this machine that is its own authority.
func selfSigned() (tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}

// NewInProcess makes a provider that only its Client reaches, without a socket, for tests with synthetic time.
func NewInProcess(tb testing.TB) *Issuer {
	tb.Helper()
	return NewNamed(tb, "https://idp.test"+realmPath)
}

// NewNamed is NewInProcess for a provider of any name, such as that of a provider that everybody knows.
func NewNamed(tb testing.TB, issuer string) *Issuer {
	tb.Helper()
	i := newIssuer(tb)
	u, err := url.Parse(issuer)
	if err != nil {
		tb.Fatalf("name of the provider: %v", err)
	}
	i.URL = issuer
	i.client = Network(i)
	i.handler = i.mux(strings.TrimRight(u.Path, "/"))
	return i
}

// Network returns a client that reaches all of these providers, which NewInProcess or NewNamed made, and nothing else.
func Network(issuers ...*Issuer) *http.Client { return &http.Client{Transport: inProcess(issuers)} }

func newIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{tb: tb, now: time.Now, discovery: map[string]any{}, clients: map[string]Client{}}
	i.AddKey(jose.ES256)
	return i
}

func (i *Issuer) mux(path string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path+"/.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("GET "+path+"/certs", i.serveKeys)
	mux.HandleFunc("POST "+path+"/token", i.serveToken)
	return mux
}

// inProcess answers requests by calling the handler of the provider that they are for.
type inProcess []*Issuer

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	index := slices.IndexFunc(t, func(i *Issuer) bool { return strings.HasPrefix(r.URL.String(), i.URL+"/") })
	if index < 0 {
		return nil, fmt.Errorf("no provider at %s", r.URL)
	}
	recorder := httptest.NewRecorder()
	t[index].handler.ServeHTTP(recorder, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	response := recorder.Result()
	response.Request = r
	return response, nil
}

// Client returns an HTTP client that reaches the provider and leaves no connection behind the test.
func (i *Issuer) Client() *http.Client { return i.client }

// CA returns the authority of a provider that NewTLS started, in PEM.
func (i *Issuer) CA() []byte { return i.ca }

// SetClock makes tokens be issued at another time than now.
func (i *Issuer) SetClock(now func() time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.now = now
}

// AddKey creates a key, publishes it beside the others and signs with it from now on.
func (i *Issuer) AddKey(alg jose.SignatureAlgorithm) Key {
	i.tb.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serial++
	key := i.newKey(fmt.Sprintf("key-%d", i.serial), alg)
	i.keys = append(i.keys, key)
	return key
}

// Rotate replaces all keys by a new one.
func (i *Issuer) Rotate() Key {
	i.tb.Helper()
	i.SetKeys()
	return i.AddKey(jose.ES256)
}

// SetKeys replaces the published keys; the last one signs.
func (i *Issuer) SetKeys(keys ...Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Keys returns the published keys.
func (i *Issuer) Keys() []Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]Key(nil), i.keys...)
}

// NewKey creates a key without publishing it.
func (i *Issuer) NewKey(id string, alg jose.SignatureAlgorithm) Key {
	i.tb.Helper()
	return i.newKey(id, alg)
}

// ServeKeys replaces the key endpoint, to answer with nonsense; nil restores it.
func (i *Issuer) ServeKeys(handler func(http.ResponseWriter, *http.Request)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rawKeys = handler
}

// SetDiscovery overrides a field of the discovery document; a nil value removes it.
func (i *Issuer) SetDiscovery(field string, value any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.discovery[field] = value
}

// Fail makes discovery and keys answer 503 until called with false.
func (i *Issuer) Fail(failing bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failing = failing
}

// Hold makes key requests wait until release is called.
func (i *Issuer) Hold() (release func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	gate := make(chan struct{})
	i.gate = gate
	return sync.OnceFunc(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.gate = nil
		close(gate)
	})
}

// AddClient lets a client fetch tokens by client credentials.
func (i *Issuer) AddClient(id string, c Client) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.clients[id] = c
}

func (i *Issuer) newKey(id string, alg jose.SignatureAlgorithm) Key {
	i.tb.Helper()
	private, err := generate(alg)
	if err != nil {
		i.tb.Fatalf("create %s key: %v", alg, err)
	}
	raw, err := json.Marshal(jose.JSONWebKey{Key: private.Public(), KeyID: id, Algorithm: string(alg), Use: "sig"})
	if err != nil {
		i.tb.Fatalf("encode %s key: %v", alg, err)
	}
	key := Key{ID: id, Algorithm: alg, Private: private}
	if err := json.Unmarshal(raw, &key.Published); err != nil {
		i.tb.Fatalf("encode %s key: %v", alg, err)
	}
	return key
}

func generate(alg jose.SignatureAlgorithm) (crypto.Signer, error) {
	switch alg {
	case jose.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	i.DiscoveryFetches.Add(1)
	i.mu.Lock()
	failing := i.failing
	document := map[string]any{
		"issuer":                                i.URL,
		"jwks_uri":                              i.URL + "/certs",
		"token_endpoint":                        i.URL + "/token",
		"authorization_endpoint":                i.URL + "/auth",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
	}
	for field, value := range i.discovery {
		if value == nil {
			delete(document, field)
			continue
		}
		document[field] = value
	}
	i.mu.Unlock()
	if failing {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	i.reply(w, http.StatusOK, document)
}

func (i *Issuer) serveKeys(w http.ResponseWriter, r *http.Request) {
	i.KeyFetches.Add(1)
	i.mu.Lock()
	failing, raw, gate := i.failing, i.rawKeys, i.gate
	published := make([]map[string]any, 0, len(i.keys))
	for _, key := range i.keys {
		published = append(published, key.Published)
	}
	i.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	// As the API server of Kubernetes does, which serves its keys as what they are and nothing else.
	accepted := r.Header.Get("Accept")
	switch {
	case accepted != "" && !strings.Contains(accepted, "*/*") && !strings.Contains(accepted, "application/jwk-set+json"):
		http.Error(w, "only application/jwk-set+json is served", http.StatusNotAcceptable)
	case raw != nil:
		raw(w, r)
	case failing:
		http.Error(w, "down", http.StatusServiceUnavailable)
	default:
		i.reply(w, http.StatusOK, map[string]any{"keys": published})
	}
}

func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	i.mu.Lock()
	client, known := i.clients[id]
	i.mu.Unlock()
	switch {
	case r.PostFormValue("grant_type") != "client_credentials":
		i.reply(w, http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
	case !known || client.Secret != secret:
		i.reply(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
	default:
		claims := maps.Clone(client.Claims)
		if claims == nil {
			claims = map[string]any{}
		}
		claims["sub"], claims["azp"], claims["scope"] = "service-account-"+id, id, r.PostFormValue("scope")
		i.reply(w, http.StatusOK, map[string]any{
			"access_token": i.Mint(claims), "token_type": "Bearer", "expires_in": 300, "scope": r.PostFormValue("scope"),
		})
	}
}

func (i *Issuer) reply(w http.ResponseWriter, code int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	if _, err := w.Write(data); err != nil {
		i.tb.Logf("answer: %v", err)
	}
}
