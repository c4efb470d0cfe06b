package sandboxtoken

import (
	"net"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4/json"
)

// Paths of the documents by which extension services verify the tokens that this gateway signs.
const (
	KeySetPath    = "/.well-known/jwks.json"
	DiscoveryPath = "/.well-known/openid-configuration"
)

// KeySet returns the public keys as a JWKS document. The caller must not change it.
func (i *Issuer) KeySet() []byte { return i.ring.Load().keySet }

// discovery is the discovery document in the form of the newer 0.0.x generation: the issuer is a name and no URL.
type discovery struct {
	Issuer        string   `json:"issuer"`
	KeySetURI     string   `json:"jwks_uri"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Scopes        []string `json:"scopes_supported"`
	Claims        []string `json:"claims_supported"`
}

// Handler serves the key set and the discovery document. A nil Issuer answers 404, as a gateway without keys does.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	if i == nil {
		return mux
	}
	mux.HandleFunc("GET "+KeySetPath, func(w http.ResponseWriter, _ *http.Request) {
		// Short, so that a new key is known before its tokens come.
		w.Header().Set("Cache-Control", "public, max-age=60")
		publish(w, i.KeySet())
	})
	mux.HandleFunc("GET "+DiscoveryPath, func(w http.ResponseWriter, r *http.Request) {
		base, ok := baseURL(r)
		if !ok {
			http.Error(w, "the request does not say under which name it reached the gateway", http.StatusBadRequest)
			return
		}
		raw, err := json.Marshal(discovery{
			Issuer: i.issuer, KeySetURI: base + KeySetPath, Algorithms: []string{"EdDSA"}, ResponseTypes: []string{"id_token"},
			SubjectTypes: []string{"public"}, Scopes: []string{"openid"},
			Claims: []string{"iss", "sub", "aud", "exp", "iat", "jti", "sandbox_id", "caller_kind"},
		})
		if err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		// It repeats what the request says, so it is for that request alone.
		w.Header().Set("Cache-Control", "no-store")
		publish(w, raw)
	})
	return mux
}

func publish(w http.ResponseWriter, document []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// The client that went away is the only one who could miss it.
	_, _ = w.Write(document)
}

// baseURL is the scheme and authority by which a client reached us: the first scheme that proxies tell, else https.
func baseURL(r *http.Request) (string, bool) {
	scheme, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	switch scheme = strings.ToLower(strings.TrimSpace(scheme)); scheme {
	case "":
		scheme = "https"
	case "http", "https":
	default:
		return "", false
	}
	return scheme + "://" + r.Host, validAuthority(r.Host)
}

// validAuthority accepts a name or address with an optional port, and nothing that could mean more in a URL.
func validAuthority(authority string) bool {
	const longest = 253 + len(":65535")
	if authority == "" || len(authority) > longest {
		return false
	}
	host := authority
	if name, port, err := net.SplitHostPort(authority); err == nil {
		if strings.Trim(port, "0123456789") != "" || port == "" || len(port) > 5 {
			return false
		}
		host = name
	} else if strings.HasPrefix(authority, "[") && strings.HasSuffix(authority, "]") {
		host = authority[1 : len(authority)-1]
	} else if strings.Contains(authority, ":") {
		return false
	}
	if strings.Contains(host, ":") {
		return net.ParseIP(host) != nil
	}
	for _, c := range []byte(host) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return host != ""
}
