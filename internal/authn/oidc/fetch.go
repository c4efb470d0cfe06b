package oidc

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	fetchTimeout = 10 * time.Second
	// minMaxAge is how long keys serve at least after the provider was last heard.
	minMaxAge    = 24 * time.Hour
	maxDocument  = 512 << 10
	maxRedirects = 3
	maxKeys      = 256
)

// keySet is what the provider published. It is immutable but for the time it was confirmed, for which it is copied.
type keySet struct {
	keys        map[string][]publicKey
	fingerprint [sha256.Size]byte
	// generation counts the changes of keys; tokens verified with another generation are verified again.
	generation uint64
	// confirmed is when the provider last said that these are its keys.
	confirmed time.Time
}

// newClient returns a client that follows redirects only on the host it was sent to.
func newClient(given *http.Client) *http.Client {
	client := &http.Client{}
	if given != nil {
		*client = *given
	}
	if client.Transport == nil {
		client.Transport = newTransport()
	}
	client.Jar = nil
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		if from := via[0].URL; next.URL.Host != from.Host || next.URL.Scheme != from.Scheme {
			return errors.New("redirected to another host")
		}
		return nil
	}
	return client
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           2,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    fetchTimeout,
		ResponseHeaderTimeout:  fetchTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// get reads a JSON document of bounded size.
func (s *source) get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err
	}
	// The second is what RFC 7517 calls a key set; the API server of Kubernetes serves its own to nobody who does not name it.
	request.Header.Set("Accept", "application/json, application/jwk-set+json")
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", address, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return err
	}
	if len(data) > maxDocument {
		return fmt.Errorf("%s answered more than %d bytes", address, maxDocument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s answered no valid JSON: %w", address, err)
	}
	return nil
}

// discover returns where the provider publishes its keys.
func (s *source) discover(ctx context.Context) (string, error) {
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := s.get(ctx, s.discovery, &document); err != nil {
		return "", fmt.Errorf("fetch OIDC discovery document: %w", err)
	}
	if trimSlashes(document.Issuer) != s.issuer {
		return "", fmt.Errorf("OIDC discovery issuer mismatch: %s describes %q, configured is %q",
			s.discovery, document.Issuer, s.issuer)
	}
	if err := checkURL(document.JWKSURI); err != nil {
		return "", fmt.Errorf("read OIDC discovery document: jwks_uri: %w", err)
	}
	if strings.HasPrefix(s.discovery, "https:") && !isHTTPS(document.JWKSURI) {
		return "", errors.New("read OIDC discovery document: jwks_uri is not https although discovery is")
	}
	return document.JWKSURI, nil
}

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https"
}

// fetchKeys reads a key set. Keys that cannot verify a token are passed over; a set without any key that can is an
// error.
func (s *source) fetchKeys(ctx context.Context, address string) (map[string][]publicKey, error) {
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, address, &document); err != nil {
		return nil, fmt.Errorf("fetch OIDC keys: %w", err)
	}
	if len(document.Keys) > maxKeys {
		return nil, fmt.Errorf("fetch OIDC keys: more than %d keys", maxKeys)
	}
	keys := map[string][]publicKey{}
	for _, raw := range document.Keys {
		if id, key, ok := readKey(raw); ok {
			keys[id] = append(keys[id], key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("fetch OIDC keys: none of the %d published keys can verify a signature", len(document.Keys))
	}
	return keys, nil
}

// readKey decodes one entry of a key set. Entries for encryption, without an id, of an unknown type or too weak do
// not count, and one that is broken does not spoil the others.
func readKey(raw []byte) (id string, key publicKey, ok bool) {
	var use struct {
		Operations []string `json:"key_ops"`
	}
	var jwk jose.JSONWebKey
	if json.Unmarshal(raw, &use) != nil || json.Unmarshal(raw, &jwk) != nil {
		return "", publicKey{}, false
	}
	if jwk.KeyID == "" || (jwk.Use != "" && jwk.Use != "sig") ||
		(len(use.Operations) > 0 && !slices.Contains(use.Operations, "verify")) {
		return "", publicKey{}, false
	}
	public := jwk.Public()
	if !public.Valid() {
		return "", publicKey{}, false
	}
	key = publicKey{public: public.Key, algorithms: algorithmsFor(public.Key, jwk.Algorithm)}
	return jwk.KeyID, key, len(key.algorithms) > 0
}

// fingerprint changes when a key or what it may be used for changes, not when the order of keys does.
func fingerprint(keys map[string][]publicKey) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	hash := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		for _, key := range keys[id] {
			jwk := jose.JSONWebKey{Key: key.public}
			thumbprint, err := jwk.Thumbprint(crypto.SHA256)
			if err != nil {
				return sum, fmt.Errorf("fingerprint OIDC keys: %w", err)
			}
			if _, err := fmt.Fprintf(hash, "%q %x %q\n", id, thumbprint, key.algorithms); err != nil {
				return sum, fmt.Errorf("fingerprint OIDC keys: %w", err)
			}
		}
	}
	hash.Sum(sum[:0])
	return sum, nil
}
