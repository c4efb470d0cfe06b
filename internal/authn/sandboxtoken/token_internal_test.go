package sandboxtoken

import (
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/principal"
)

func FuzzHeader(f *testing.F) {
	issuer, err := Open("", "gw-1", time.Hour, nil)
	if err != nil {
		f.Fatal(err)
	}
	token, _, err := issuer.Mint("box")
	if err != nil {
		f.Fatal(err)
	}
	head, _, _ := strings.Cut(token, ".")
	for _, s := range []string{
		head, "", "e30", "eyJhbGciOiJFZERTQSIsImtpZCI6IngifQ", "eyJ0eXAiOiJvcGVuc2hlbGwtZXh0K2p3dCJ9", "eyJhbGciOiJub25lIn0", "bnVsbA", "W10", head + "=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := issuer.ring.Load()
		ours, _ := r.recognizes(s)
		again, _ := r.recognizes(s)
		if ours != again {
			t.Errorf("%q: first %v, then %v", s, ours, again)
		}
		if len(r.headers) > maxHeaders {
			t.Errorf("%d headers are remembered", len(r.headers))
		}
		h, ok := decodeHeader(s)
		if ours && (!ok || !isExtension(h) && r.verifier[h.KeyID] == nil) {
			t.Errorf("%q is ours", s)
		}
		if issuer.Recognizes(s + ".e30.c2ln") {
			if p, err := issuer.Verify(s+".e30.c2ln", false); err == nil {
				t.Errorf("%q let in %v", s, p)
			}
		}
		if !issuer.Recognizes(token) {
			t.Errorf("%q spoilt our own header", s)
		}
	})
}

// Verifying without the cache is what a token costs that is new, or that a peer made up.
func BenchmarkVerifyMiss(b *testing.B) {
	issuer, err := Open("", "gw-1", time.Hour, nil)
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := issuer.Mint("0b5f7a52-3f63-4a7e-9a53-6a1f0e4f8c11")
	if err != nil {
		b.Fatal(err)
	}
	var p *principal.Principal
	b.ReportAllocs()
	for b.Loop() {
		if p, err = issuer.check(issuer.ring.Load(), token); err != nil {
			b.Fatal(err)
		}
	}
	if p.SandboxID == "" {
		b.Error("no sandbox")
	}
}
