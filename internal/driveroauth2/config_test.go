package driveroauth2_test

import (
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/driveroauth2"
)

const minimal = `credentials:
  demo:
    client_id: c
    client_secret_ref: demo
    token_endpoint: https://idp.test/token
`

func TestConfigProblemsNameLineKeyAndRemedy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, yaml, want string }{
		{"unknown top key", minimal + "extra: 1\n", "c.yaml:6: extra: unknown key"},
		{"unknown key", minimal + "    scope: a\n", "c.yaml:6: credentials.demo.scope: unknown key; known keys:"},
		{"twice", minimal + "    client_id: d\n", "c.yaml:6: credentials.demo.client_id: is given twice"},
		{"missing", "credentials:\n  demo: {client_id: c}\n", "c.yaml:2: credentials.demo.token_endpoint: is required"},
		{"traversal", strings.Replace(minimal, "ref: demo", "ref: ../demo", 1), "c.yaml:4: credentials.demo.client_secret_ref: leads outside"},
		{"absolute", strings.Replace(minimal, "ref: demo", "ref: /etc/shadow", 1), "leads outside"},
		{"plain http", strings.Replace(minimal, "https", "http", 1), "--allow-http"},
		{"userinfo", strings.Replace(minimal, "idp.test", "a:b@idp.test", 1), "must not carry a user"},
		{"relative", strings.Replace(minimal, "https://idp.test", "", 1), "no absolute https URL"},
		{"scope with space", minimal + "    scopes: ['a b']\n", `"a b" is no scope`},
		{"scopes no list", minimal + "    scopes: a\n", "must be a list"},
		{"client auth", minimal + "    client_auth: mtls\n", "must be `body` or `basic`"},
		{"alias", "a: &x {}\ncredentials: *x\n", "aliases are not supported"},
		{"empty", "", "is empty"},
		{"none", "{}", "is missing"},
		{"no YAML", "credentials: [", "no valid YAML"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := driveroauth2.ParseConfig("c.yaml", []byte(tt.yaml), false)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := driveroauth2.ParseConfig("c.yaml", []byte(strings.Replace(minimal, "https", "http", 1)), true); err != nil {
		t.Errorf("plain http with leave: %v", err)
	}
	if none, err := driveroauth2.ParseConfig("c.yaml", []byte("credentials: {}"), false); err != nil || none == nil || len(none) > 0 {
		t.Errorf("none that is meant: got %v, error %v", none, err)
	}
	both := strings.Replace(minimal, "client_id", "client", 1) + "extra: 1\n"
	if _, err := driveroauth2.ParseConfig("c.yaml", []byte(both), false); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want both problems, got %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		conf, err := driveroauth2.ParseConfig("c.yaml", raw, false)
		if err == nil && conf == nil {
			t.Error("accepted a file and returned no map")
		}
	})
}
