package sandboxtoken_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
)

func idOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:16])
}

func get(t *testing.T, h http.Handler, path, host string, proto ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Host = host
	for _, p := range proto {
		r.Header.Add("X-Forwarded-Proto", p)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	issuer := open(t, "", time.Hour, nil)
	for _, tc := range []struct {
		host  string
		proto []string
		want  string // the scheme and authority, empty for 400
	}{
		{"gw.example:8080", nil, "https://gw.example:8080"},
		{"gw.example", []string{"http"}, "http://gw.example"},
		{"gw.example", []string{"HTTPS , http"}, "https://gw.example"},
		{"gw.example", []string{"http", "https"}, "http://gw.example"},
		{"[::1]:17670", nil, "https://[::1]:17670"},
		{"[::1]", nil, "https://[::1]"},
		{"10.0.0.1", nil, "https://10.0.0.1"},
		{"gw.example", []string{"javascript"}, ""},
		{"gw.example", []string{"ftp,https"}, ""},
		{"", nil, ""},
		{"a/b", nil, ""},
		{"user@gw.example", nil, ""},
		{"gw.example:x", nil, ""},
		{"gw.example:", nil, ""},
		{"gw.example:123456", nil, ""},
		{"::1", nil, ""},
		{"[x:y]", nil, ""},
		{"\"><script>", nil, ""},
		{":80", nil, ""},
	} {
		w := get(t, issuer.Handler(), sandboxtoken.DiscoveryPath, tc.host, tc.proto...)
		if tc.want == "" {
			if w.Code != http.StatusBadRequest {
				t.Errorf("%q %v: %d %s, want 400", tc.host, tc.proto, w.Code, w.Body)
			}
			continue
		}
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != http.StatusOK || err != nil {
			t.Errorf("%q %v: %d, %v", tc.host, tc.proto, w.Code, err)
			continue
		}
		delete(got, "claims_supported")
		want := map[string]any{
			"issuer": "openshell-gateway:gw-1", "jwks_uri": tc.want + "/.well-known/jwks.json",
			"id_token_signing_alg_values_supported": []any{"EdDSA"}, "response_types_supported": []any{"id_token"},
			"subject_types_supported": []any{"public"}, "scopes_supported": []any{"openid"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q %v (-want +got):\n%s", tc.host, tc.proto, diff)
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", w.Header())
		}
	}
}

func TestPublishedKeysFollowTheRing(t *testing.T) {
	t.Parallel()
	issuer := open(t, "", time.Hour, nil)
	h := issuer.Handler()
	if _, _, err := issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	w := get(t, h, sandboxtoken.KeySetPath, "x")
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%s, %v", w.Body, err)
	}
	for n, id := range issuer.KeyIDs() {
		k := set.Keys[n]
		if k["kid"] != id || k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["alg"] != "EdDSA" || k["use"] != "sig" || k["d"] != "" {
			t.Errorf("key %d: %v", n, k)
		}
	}
	for path, want := range map[string]int{"/": 404, "/.well-known/x": 404, sandboxtoken.KeySetPath + "/": 404} {
		if w := get(t, h, path, "x"); w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	post := httptest.NewRequestWithContext(t.Context(), http.MethodPost, sandboxtoken.KeySetPath, nil)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, post)
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", rec.Code)
	}
	var none *sandboxtoken.Issuer
	for _, path := range []string{sandboxtoken.KeySetPath, sandboxtoken.DiscoveryPath} {
		if w := get(t, none.Handler(), path, "x"); w.Code != http.StatusNotFound {
			t.Errorf("without keys %s: %d", path, w.Code)
		}
	}
}

// A request of HTTP/1.0 need not say which host it means.
func TestDiscoveryWithoutAuthority(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(open(t, "", time.Hour, nil).Handler())
	defer s.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", sandboxtoken.DiscoveryPath); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d, want 400", resp.StatusCode)
	}
}
