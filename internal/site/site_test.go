package site_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"sallyport.dev/sallyport/internal/site"
)

func policy(t testing.TB) *site.Policy {
	t.Helper()
	p, err := site.New(site.Config{
		Hosts:   []string{"Gateway.example.com", "tunnel.example.com:8443"},
		Origins: []string{"https://console.example.com", "http://localhost:3000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(host string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	local := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 8080}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
}

func TestHost(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:8080": true, "127.0.0.1:8080": true, "127.8.9.1": true, "[::1]:8080": true, "[::1]": true,
		"192.0.2.7": true, "192.0.2.7:1": true, "[::ffff:192.0.2.7]:8080": true,
		"gateway.example.com": true, "gateway.example.com:17670": true, "GATEWAY.example.com.": true,
		"tunnel.example.com:8443": true, "tunnel.example.com": false, "tunnel.example.com:443": false,
		"192.0.2.8": false, "evil.example": false, "gateway.example.com.evil.example": false, "localhost.evil.example": false,
		"xgateway.example.com": false, "": false, "evil.example@localhost": false, "localhost:": false, "localhost:http": false,
		"localhost:0": false, "localhost:99999": false, "localhost:08": false, "[localhost]": false, "[::1": false, "[::1]x": false,
		"a b": false, "localhost/": false, "127.0.0.1.nip.io": false, "2130706433": false, "::1": true,
	} {
		if got := p.Host(request(host)); got != want {
			t.Errorf("host %q: %v, want %v", host, got, want)
		}
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for _, c := range []struct {
		host    string
		tls     bool
		origins []string
		want    bool
	}{
		{"gateway.example.com", false, nil, true},
		{"gateway.example.com", false, []string{"https://gateway.example.com"}, true},
		{"gateway.example.com", false, []string{"https://gateway.example.com:443"}, true},
		{"gateway.example.com", false, []string{"http://gateway.example.com"}, true},
		{"gateway.example.com", true, []string{"http://gateway.example.com"}, false},
		{"gateway.example.com", true, []string{"https://GATEWAY.example.com"}, true},
		{"127.0.0.1:8080", false, []string{"http://127.0.0.1:8080"}, true},
		{"127.0.0.1:8080", false, []string{"http://127.0.0.1:8081"}, false},
		{"127.0.0.1:8080", false, []string{"http://127.0.0.1"}, false},
		{"gateway.example.com", true, []string{"https://console.example.com"}, true},
		{"gateway.example.com", true, []string{"http://console.example.com"}, false},
		{"gateway.example.com", true, []string{"https://console.example.com:8443"}, false},
		{"gateway.example.com", true, []string{"http://localhost:3000"}, true},
		{"gateway.example.com", true, []string{"http://localhost:3001"}, false},
		{"gateway.example.com", true, []string{"https://evil.example"}, false},
		{"gateway.example.com", true, []string{"https://gateway.example.com.evil.example"}, false},
		{"gateway.example.com", true, []string{"https://gateway.example.com@evil.example"}, false},
		{"gateway.example.com", true, []string{"https://gateway.example.com/"}, false},
		{"gateway.example.com", true, []string{"null"}, false},
		{"gateway.example.com", true, []string{""}, false},
		{"gateway.example.com", true, []string{"file://"}, false},
		{"gateway.example.com", true, []string{"https://gateway.example.com", "https://evil.example"}, false},
	} {
		var header []string
		for _, o := range c.origins {
			header = append(header, "Origin", o)
		}
		r := request(c.host, header...)
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := p.Origin(r); got != c.want {
			t.Errorf("%s (TLS %v) from %q: %v, want %v", c.host, c.tls, c.origins, got, c.want)
		}
	}
}

func TestNavigation(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for _, c := range []struct {
		header []string
		want   bool
	}{
		{nil, true},
		{[]string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "none"}, true},
		// Back from an identity provider.
		{[]string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "cross-site"}, true},
		{[]string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}, false},
		{[]string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "cross-site"}, false},
		{[]string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script", "Sec-Fetch-Site", "same-site"}, false},
		{[]string{"Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}, false},
		{[]string{"Origin", "https://evil.example"}, false},
	} {
		if got := p.Navigation(request("localhost", c.header...)); got != c.want {
			t.Errorf("%q: %v, want %v", c.header, got, c.want)
		}
	}
}

func TestConfigurationThatMeansNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []site.Config{
		{Hosts: []string{""}},
		{Hosts: []string{"https://a"}},
		{Hosts: []string{"a b"}},
		{Hosts: []string{"*.a"}},
		{Hosts: []string{"a:0"}},
		{Origins: []string{"a"}},
		{Origins: []string{"*"}},
		{Origins: []string{"https://a/b"}},
		{Origins: []string{"ftp://a"}},
		{Origins: []string{"null"}},
	} {
		if _, err := site.New(c); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}

// A name that is not the gateway's is never taken for one, however it is written.
func FuzzHost(f *testing.F) {
	for _, seed := range []string{"localhost", "[::1]:80", "evil.example", "127.0.0.1", "a:b:c", "[", "]", ":", "::", "localhost.", "[::ffff:7f00:1]:1"} {
		f.Add(seed)
	}
	p := policy(f)
	f.Fuzz(func(t *testing.T, host string) {
		suffixed := host + ".evil.example"
		if p.Host(request(suffixed)) {
			t.Errorf("%q is taken for the gateway", suffixed)
		}
		p.Origin(request("localhost", "Origin", host))
		p.Host(request(host))
	})
}
