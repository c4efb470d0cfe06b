package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/oidctest"
)

// signRaw signs any header and payload, byte for byte, with an ES256 key of the provider.
func signRaw(tb testing.TB, key oidctest.Key, header, payload string) string {
	tb.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	der, err := key.Private.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		tb.Fatal(err)
	}
	var parts struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		tb.Fatal(err)
	}
	signature := append(parts.R.FillBytes(make([]byte, 32)), parts.S.FillBytes(make([]byte, 32))...)
	return input + "." + encode(signature)
}

func TestRawTokens(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	key := idp.Keys()[0]
	header := fmt.Sprintf(`{"alg":"ES256","kid":%q,"typ":"JWT"}`, key.ID)
	payload, err := json.Marshal(idp.Claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	claims := string(payload)
	and := func(more string) string { return claims[:len(claims)-1] + "," + more + "}" }
	for _, tc := range []struct{ name, header, payload, reason string }{
		{"plain", header, claims, ""},
		{"two issuers", header, and(`"iss":"https://evil.test"`), oidc.ReasonMalformed},
		{"two audiences", header, and(`"aud":"x"`), oidc.ReasonMalformed},
		{"audience in capitals is another claim", header, and(`"AUD":"x"`), ""},
		{"list", header, `[` + claims + `]`, oidc.ReasonMalformed},
		{"null", header, `null`, oidc.ReasonMalformed},
		{"empty", header, ``, oidc.ReasonMalformed},
		{"text", header, `"claims"`, oidc.ReasonMalformed},
		{"two objects", header, claims + claims, oidc.ReasonMalformed},
		{"end that is no number", header, and(`"x":1e999`), oidc.ReasonMalformed},
		{"deep", header, and(`"x":` + strings.Repeat("[", 2_000) + strings.Repeat("]", 2_000)), ""},
		{"two key ids", fmt.Sprintf(`{"alg":"ES256","kid":%q,"kid":"other"}`, key.ID), claims, oidc.ReasonMalformed},
		{"two algorithms", fmt.Sprintf(`{"alg":"none","alg":"ES256","kid":%q}`, key.ID), claims, oidc.ReasonMalformed},
		{"algorithm in small letters", fmt.Sprintf(`{"alg":"es256","kid":%q}`, key.ID), claims, oidc.ReasonAlgorithm},
		{"key id as number", `{"alg":"ES256","kid":1}`, claims, oidc.ReasonMalformed},
		{"key in the header", fmt.Sprintf(`{"alg":"ES256","jwk":%s}`, published(t, idp.NewKey("own", jose.ES256))), claims, oidc.ReasonNoKeyID},
		{"address of keys in the header", `{"alg":"ES256","kid":"own","jku":"https://evil.test/keys"}`, claims, oidc.ReasonUnknownKey},
		{"unencoded payload", fmt.Sprintf(`{"alg":"ES256","kid":%q,"b64":false,"crit":["b64"]}`, key.ID), claims, oidc.ReasonSignature},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, err := newVerifier(t, idp, nil).Verify(t.Context(), signRaw(t, key, tc.header, tc.payload))
			if tc.reason == "" && err != nil {
				t.Errorf("refused: %v", err)
			} else if tc.reason != "" {
				wantReason(t, err, tc.reason)
				if p != nil {
					t.Errorf("admitted %+v", p)
				}
			}
		})
	}
}

func published(t *testing.T, key oidctest.Key) string {
	t.Helper()
	data, err := json.Marshal(key.Published)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWeakKeysDoNotCount(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(jose.JSONWebKey{Key: weak.Public(), KeyID: "weak", Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	key := oidctest.Key{ID: "weak", Algorithm: jose.RS256, Private: weak}
	if err := json.Unmarshal(raw, &key.Published); err != nil {
		t.Fatal(err)
	}
	idp.SetKeys(idp.Keys()[0], key)
	_, err = newVerifier(t, idp, nil).Verify(t.Context(), idp.Mint(nil))
	wantReason(t, err, oidc.ReasonUnknownKey)
}

// Some providers publish two keys under one id while they rotate.
func TestTwoKeysOfOneID(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	first, second, third := idp.NewKey("same", jose.ES256), idp.NewKey("same", jose.ES256), idp.NewKey("same", jose.ES256)
	idp.SetKeys(first, second)
	v := newVerifier(t, idp, nil)
	accept(t, v, idp.MintWith(first, nil, nil))
	accept(t, v, idp.MintWith(second, nil, nil))
	_, err := v.Verify(t.Context(), idp.MintWith(third, nil, nil))
	wantReason(t, err, oidc.ReasonSignature)
}

func TestConcurrentExpiryOfKeysCostsOneFetch(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		synctest.Wait()
		accept(t, v, idp.Mint(nil))
		stop() // Nothing refreshes any more.
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		wait(25 * time.Hour)
		release := idp.Hold()
		var wg sync.WaitGroup
		for i := range 50 {
			token := idp.Mint(map[string]any{"sub": fmt.Sprintf("user-%d", i)})
			wg.Go(func() { accept(t, v, token) })
		}
		synctest.Wait()
		release()
		wg.Wait()
		wantFetches(t, idp, 2)
	})
}

// FuzzToken signs any header and claims with a good key, as a provider gone mad or taken over would, and checks what no
// token may achieve.
func FuzzToken(f *testing.F) {
	idp := oidctest.NewInProcess(f)
	key := idp.Keys()[0]
	good := fmt.Sprintf(`{"alg":"ES256","kid":%q}`, key.ID)
	claims, err := json.Marshal(idp.Claims(map[string]any{"exp": 4_000_000_000, "iat": 1_700_000_000, "realm_access": oidctest.Roles("r")}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, string(claims))
	f.Add(good, `{"iss":"https://idp.test/realms/openshell","aud":["openshell-cli",1],"sub":"s","exp":4e9}`)
	f.Add(`{"alg":"none","kid":"key-1"}`, string(claims))
	f.Add(`{"alg":"ES256","kid":"key-1","crit":["exp"],"exp":1}`, `{"iss":"https://idp.test/realms/openshell/","aud":"openshell-cli","sub":"\u0000","exp":1e300,"nbf":-1}`)
	s := open(f, oidc.Options{}, idp.Client(), oidc.Issuer{
		Name: "idp", URL: idp.URL, Audiences: []string{oidctest.Audience}, ScopesClaim: "scope",
		RoleMap: map[string][]string{"r": {"mapped"}}, StrictRoles: true,
	})
	f.Fuzz(func(t *testing.T, header, payload string) {
		if len(header)+len(payload) > 8<<10 {
			return
		}
		token := signRaw(t, key, header, payload)
		p, err := s.Verify(context.Background(), token)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
		if err != nil {
			if _, known := s.Known(token); known {
				t.Error("a refused token is remembered")
			}
			return
		}
		var head, body map[string]any
		if json.Unmarshal([]byte(header), &head) != nil || json.Unmarshal([]byte(payload), &body) != nil {
			t.Fatal("accepted what cannot be read")
		}
		if head["alg"] != "ES256" || head["kid"] != key.ID || body["sub"] != p.Subject || p.Issuer != idp.URL || p.Subject == "" {
			t.Errorf("%s %s was accepted as %+v", header, payload, p)
		}
		if body["aud"] == nil || body["exp"] == nil || len(p.Roles) > 1 {
			t.Errorf("%s was accepted as %+v", payload, p)
		}
		if again, known := s.Known(token); p.Expires.After(time.Now()) && (!known || again != p) {
			t.Errorf("%v, %v is remembered of %+v", again, known, p)
		}
	})
}
