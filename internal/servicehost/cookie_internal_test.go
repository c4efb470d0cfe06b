package servicehost

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzCookies sees that no way of writing headers gets the gateway's cookie to a program, or one of a program's to the
// domain.
func FuzzCookies(f *testing.F) {
	for _, seed := range []string{
		"a=b; " + Cookie + "=x; c=d", "=" + Cookie + "=x", Cookie, " " + Cookie + " = x", "a=b; Domain=x", "a=b;domain\t=x", "a", ";;=;", "CF_Authorization=x",
		`a="b; ` + Cookie + `=x"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		h := http.Header{"Cookie": {line}}
		programCookies(h)
		if secret := cookieOf(&http.Request{Header: h}); secret != "" {
			t.Errorf("%q leaves %q in %q", line, secret, h["Cookie"])
		}
		for _, c := range (&http.Request{Header: h}).Cookies() {
			if gatewayCookie(c.Name) {
				t.Errorf("%q leaves %q", line, h["Cookie"])
			}
		}
		h = http.Header{"Set-Cookie": {line}}
		ownCookies(h)
		for _, c := range (&http.Response{Header: h}).Cookies() {
			if c.Domain != "" || gatewayCookie(c.Name) {
				t.Errorf("%q sets %+v", line, c)
			}
		}
		for _, set := range h["Set-Cookie"] {
			pair, _, _ := strings.Cut(set, ";")
			if name, _, ok := strings.Cut(pair, "="); !ok || strings.TrimSpace(name) == "" {
				t.Errorf("%q sets a cookie without a name: %q", line, set)
			}
		}
	})
}
