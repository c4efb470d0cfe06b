package sandboxtoken_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const sandboxID = "0b5f7a52-3f63-4a7e-9a53-6a1f0e4f8c11"

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 5, 4, 3, 2, 1, 500, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

func open(t *testing.T, dir string, ttl time.Duration, now func() time.Time) *sandboxtoken.Issuer {
	t.Helper()
	issuer, err := sandboxtoken.Open(dir, "gw-1", ttl, now)
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func mint(t *testing.T, issuer *sandboxtoken.Issuer) (string, time.Time) {
	t.Helper()
	token, expires, err := issuer.Mint(sandboxID)
	if err != nil {
		t.Fatal(err)
	}
	return token, expires
}

func decode(t *testing.T, segment string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// sign makes a token of any header and claims with the key file's key.
func sign(t *testing.T, keyFile string, header, claims map[string]any) string {
	t.Helper()
	data, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		t.Fatalf("key is a %T", parsed)
	}
	encode := func(m map[string]any) string {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	signed := encode(header) + "." + encode(claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))
}

func TestTokenHasTheWireFormat(t *testing.T) {
	t.Parallel()
	c := newClock()
	issuer := open(t, "", time.Hour, c.Now)
	token, expires := mint(t, issuer)
	parts := strings.Split(token, ".")
	now := c.Now().Unix()
	wantClaims := map[string]any{
		"iss": "openshell-gateway:gw-1", "aud": "openshell-gateway:gw-1",
		"sub": "spiffe://openshell/sandbox/" + sandboxID, "sandbox_id": sandboxID,
		"iat": float64(now), "exp": float64(now + 3600),
	}
	if diff := cmp.Diff(wantClaims, decode(t, parts[1])); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if expires.Unix() != now+3600 {
		t.Errorf("expires %d, want %d", expires.Unix(), now+3600)
	}

	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(issuer.KeySet(), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("%d keys, want 1", len(set.Keys))
	}
	x, err := base64.RawURLEncoding.DecodeString(set.Keys[0]["x"])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(x))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	kid := hex.EncodeToString(sum[:16])
	wantKey := map[string]string{
		"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": set.Keys[0]["x"],
	}
	if diff := cmp.Diff(wantKey, set.Keys[0]); diff != "" {
		t.Errorf("key (-want +got):\n%s", diff)
	}
	if h := decode(t, parts[0]); h["alg"] != "EdDSA" || h["kid"] != kid {
		t.Errorf("header %v, want EdDSA and kid %s", h, kid)
	}
	if !ed25519.Verify(x, []byte(parts[0]+"."+parts[1]), must(t)(base64.RawURLEncoding.DecodeString(parts[2]))) {
		t.Error("signature does not verify with the published key")
	}
}

func must(t *testing.T) func([]byte, error) []byte {
	t.Helper()
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestExpiryHasSixtySecondsOfLeeway(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		past time.Duration
		ok   bool
	}{
		{"before", -time.Second, true},
		{"59 s past", 59 * time.Second, true},
		{"61 s past", 61 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			issuer := open(t, "", time.Hour, c.Now)
			token, expires := mint(t, issuer)
			if _, err := issuer.Verify(token, false); err != nil { // now in the cache, which must not outlive it
				t.Fatal(err)
			}
			c.Set(expires.Add(tc.past))
			_, err := issuer.Verify(token, false)
			if tc.ok && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tc.ok && (!fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "ExpiredSignature")) {
				t.Errorf("got %v, want ExpiredSignature", err)
			}
		})
	}
}

func TestIssuedComesFromTheToken(t *testing.T) {
	t.Parallel()
	c := newClock()
	issuer := open(t, "", time.Hour, c.Now)
	token, expires := mint(t, issuer)
	c.Set(c.Now().Add(time.Minute))
	p, err := issuer.Verify(token, false)
	if err != nil {
		t.Fatal(err)
	}
	want := &principal.Principal{
		Kind: principal.Sandbox, SandboxID: sandboxID, Source: principal.SourceToken,
		Issued: expires.Add(-time.Hour), Expires: expires,
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecoveryAfterExpiry(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name             string
		recovery, past   time.Duration
		plain, refreshed bool
	}{
		{"alive", time.Hour, -time.Second, true, true},
		{"within the leeway", time.Hour, 59 * time.Second, true, true},
		{"expired", time.Hour, 2 * time.Minute, false, true},
		{"at the end", time.Hour, time.Hour - time.Second, false, true},
		{"past it", time.Hour, time.Hour, false, false},
		{"switched off", 0, 2 * time.Minute, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			issuer, err := sandboxtoken.New(sandboxtoken.Options{GatewayID: "gw-1", TTL: time.Hour, Recovery: tc.recovery, Now: c.Now})
			if err != nil {
				t.Fatal(err)
			}
			token, expires := mint(t, issuer)
			c.Set(expires.Add(tc.past))
			for _, state := range []string{"new", "known"} {
				if _, err := issuer.Verify(token, false); (err == nil) != tc.plain {
					t.Errorf("%s: any call: %v", state, err)
				}
				p, err := issuer.Verify(token, true)
				if (err == nil) != tc.refreshed {
					t.Errorf("%s: refresh: %v", state, err)
				}
				if err == nil && (p.Source == principal.SourceExpiredToken) == tc.plain {
					t.Errorf("%s: source %s", state, p.Source)
				}
				if err != nil && fault.From(err).Reason != sandboxtoken.ReasonExpired {
					t.Errorf("%s: reason %s", state, fault.From(err).Reason)
				}
				_, plain := issuer.Known(token, false)
				_, refreshed := issuer.Known(token, true)
				if plain != tc.plain || refreshed != tc.refreshed {
					t.Errorf("%s: known %v, to refresh %v", state, plain, refreshed)
				}
			}
		})
	}
}

func TestZeroLifeNeverExpires(t *testing.T) {
	t.Parallel()
	c := newClock()
	issuer := open(t, "", 0, c.Now)
	token, expires := mint(t, issuer)
	if !expires.IsZero() {
		t.Errorf("expires %v, want never", expires)
	}
	if exp := decode(t, strings.Split(token, ".")[1])["exp"]; exp != float64(0) {
		t.Errorf("exp %v, want 0", exp)
	}
	c.Set(c.Now().AddDate(50, 0, 0))
	p, err := issuer.Verify(token, false)
	if err != nil || p.SandboxID != sandboxID || !p.Expires.IsZero() {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dir = filepath.Join(dir, "keys")
	c := newClock()
	issuer := open(t, dir, time.Hour, c.Now)
	keyFile := filepath.Join(dir, "0001.pem")
	good, _ := mint(t, issuer)
	kid := decode(t, strings.Split(good, ".")[0])["kid"]
	claims := func(change func(map[string]any)) map[string]any {
		m := decode(t, strings.Split(good, ".")[1])
		change(m)
		return m
	}
	ours := map[string]any{"alg": "EdDSA", "kid": kid}
	parts := strings.Split(good, ".")
	tampered := claims(func(m map[string]any) { m["sandbox_id"] = "other"; m["sub"] = "spiffe://openshell/sandbox/other" })
	raw, err := json.Marshal(tampered)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, token, want string }{
		{"tampered sandbox id", parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw) + "." + parts[2], "InvalidSignature"},
		{"other gateway", sign(t, keyFile, ours, claims(func(m map[string]any) { m["iss"] = "openshell-gateway:gw-2" })), "InvalidIssuer"},
		{"other audience", sign(t, keyFile, ours, claims(func(m map[string]any) { m["aud"] = "ext" })), "InvalidAudience"},
		{"audience as array", sign(t, keyFile, ours, claims(func(m map[string]any) { m["aud"] = []string{"openshell-gateway:gw-1"} })), "malformed claims"},
		{"no exp", sign(t, keyFile, ours, claims(func(m map[string]any) { delete(m, "exp") })), "no valid exp"},
		{"negative exp", sign(t, keyFile, ours, claims(func(m map[string]any) { m["exp"] = -1 })), "no valid exp"},
		{"subject of another sandbox", sign(t, keyFile, ours, claims(func(m map[string]any) { m["sub"] = "spiffe://openshell/sandbox/other" })), "InvalidSubject"},
		{"no subject", sign(t, keyFile, ours, claims(func(m map[string]any) { delete(m, "sub") })), "InvalidSubject"},
		{"no sandbox", sign(t, keyFile, ours, claims(func(m map[string]any) { m["sandbox_id"] = ""; m["sub"] = "spiffe://openshell/sandbox/" })), "InvalidSubject"},
		{"path in sandbox id", sign(t, keyFile, ours, claims(func(m map[string]any) {
			m["sandbox_id"] = "../x"
			m["sub"] = "spiffe://openshell/sandbox/../x"
		})), "InvalidSubject"},
		{"extension token", sign(t, keyFile, map[string]any{"alg": "EdDSA", "kid": kid, "typ": "openshell-ext+jwt"}, claims(func(map[string]any) {})), "extension tokens cannot authenticate"},
		{"foreign extension token", sign(t, keyFile, map[string]any{"alg": "EdDSA", "kid": "x", "typ": "openshell-ext+jwt"}, claims(func(map[string]any) {})), "extension tokens cannot authenticate"},
		{"alg none", sign(t, keyFile, map[string]any{"alg": "none", "kid": kid}, claims(func(map[string]any) {})), "malformed"},
		{"unknown kid", sign(t, keyFile, map[string]any{"alg": "EdDSA", "kid": "x"}, claims(func(map[string]any) {})), "unknown signing key"},
		{"empty", "", "malformed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := issuer.Verify(tc.token, false)
			if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want Unauthenticated with %q", err, tc.want)
			}
			if fault.From(err).Next == "" {
				t.Error("no next step")
			}
		})
	}
}

func TestRecognizesByKid(t *testing.T) {
	t.Parallel()
	one, other := open(t, "", time.Hour, nil), open(t, "", time.Hour, nil)
	token, _ := mint(t, one)
	if !one.Recognizes(token) {
		t.Error("own token not recognized")
	}
	if other.Recognizes(token) {
		t.Error("foreign kid recognized")
	}
	for _, s := range []string{"", ".", "..", "a.b.c", "opaque", strings.Repeat("A", 1<<20)} {
		if one.Recognizes(s) {
			t.Errorf("%.20q recognized", s)
		}
	}
}

func TestKeysSurviveARestartAndRotate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	first := open(t, dir, time.Hour, nil)
	old, _ := mint(t, first)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "0001.pem"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v; want the one key", entries, err)
	}

	again := open(t, dir, time.Hour, nil)
	if _, err := again.Verify(old, false); err != nil {
		t.Errorf("token of before the restart: %v", err)
	}

	// An operator adds a second key: it signs, the first still verifies.
	elsewhere := filepath.Join(t.TempDir(), "keys")
	open(t, elsewhere, time.Hour, nil)
	data, err := os.ReadFile(filepath.Join(elsewhere, "0001.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0002.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	rotated := open(t, dir, time.Hour, nil)
	token, _ := mint(t, rotated)
	if decode(t, strings.Split(token, ".")[0])["kid"] == decode(t, strings.Split(old, ".")[0])["kid"] {
		t.Error("the old key still signs")
	}
	for _, tok := range []string{old, token} {
		if _, err := rotated.Verify(tok, false); err != nil {
			t.Errorf("after rotation: %v", err)
		}
	}
}

func TestOpenRefusesWhatOthersCanReadOrCannotBeUsed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"open directory", func(t *testing.T, dir string) { t.Helper(); chmod(t, dir, 0o755) }, "open to other users"},
		{"key that others read", func(t *testing.T, dir string) { t.Helper(); chmod(t, filepath.Join(dir, "0001.pem"), 0o644) }, "open to other users"},
		{"key that a group writes", func(t *testing.T, dir string) { t.Helper(); chmod(t, filepath.Join(dir, "0001.pem"), 0o660) }, "open to other users"},
		{"directory that a group writes", func(t *testing.T, dir string) { t.Helper(); chmod(t, dir, 0o770) }, "open to other users"},
		{"broken key", func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, "0002.pem"), []byte("half a k"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no PKCS#8 private key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "keys")
			open(t, dir, time.Hour, nil)
			tc.do(t, dir)
			if _, err := sandboxtoken.Open(dir, "gw-1", time.Hour, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := sandboxtoken.Open("", "", time.Hour, nil); err == nil {
		t.Error("an empty gateway id was accepted")
	}
	if _, err := sandboxtoken.Open("", "g", -1, nil); err == nil {
		t.Error("a negative life was accepted")
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentFirstStartsAgreeOnOneKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	sets := make([]string, 8)
	var wg sync.WaitGroup
	for i := range sets {
		wg.Go(func() {
			issuer, err := sandboxtoken.Open(dir, "gw-1", time.Hour, nil)
			if err != nil {
				t.Error(err)
				return
			}
			sets[i] = string(issuer.KeySet())
		})
	}
	wg.Wait()
	for _, set := range sets {
		if set != sets[0] {
			t.Fatal("two processes chose different keys")
		}
	}
}

func TestMintRefusesWhatIsNoID(t *testing.T) {
	t.Parallel()
	issuer := open(t, "", time.Hour, nil)
	for _, id := range []string{"", "a/b", "..", "a b", strings.Repeat("x", 129)} {
		if _, _, err := issuer.Mint(id); err == nil {
			t.Errorf("minted for %q", id)
		}
	}
	if _, _, err := issuer.Mint(strings.Repeat("x", 128)); err != nil {
		t.Errorf("128 characters: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	issuer, err := sandboxtoken.Open("", "gw-1", time.Hour, nil)
	if err != nil {
		f.Fatal(err)
	}
	token, _, err := issuer.Mint(sandboxID)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		issuer.Recognizes(s)
		if p, err := issuer.Verify(s, false); err == nil && p.SandboxID != sandboxID {
			t.Errorf("%q verified as %q", s, p.SandboxID)
		}
	})
}

func BenchmarkVerifyHit(b *testing.B) {
	issuer, err := sandboxtoken.Open("", "gw-1", time.Hour, nil)
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := issuer.Mint(sandboxID)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !issuer.Recognizes(token) {
			b.Fatal("not recognized")
		}
		if _, err := issuer.Verify(token, false); err != nil {
			b.Fatal(err)
		}
	}
}
