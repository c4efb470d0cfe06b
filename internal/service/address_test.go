package service_test

import (
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/service"
)

func TestHostsOfServices(t *testing.T) {
	t.Parallel()
	a := service.Address{Secure: true, Port: 8443, Domains: []string{"apps.example", "openshell.localhost"}}
	long := strings.Repeat("a", 19)
	for host, want := range map[string]service.Name{
		"default--box.apps.example":                                     {Workspace: "default", Sandbox: "box"},
		"default--box--web.apps.example":                                {Workspace: "default", Sandbox: "box", Service: "web"},
		"default--box--web.apps.example:8443":                           {Workspace: "default", Sandbox: "box", Service: "web"},
		"Default--BOX--Web.Apps.EXAMPLE.":                               {Workspace: "default", Sandbox: "box", Service: "web"},
		"w--a-b--c-d.openshell.localhost:1":                             {Workspace: "w", Sandbox: "a-b", Service: "c-d"},
		long + "--" + long + "--" + long + ".openshell.localhost:65535": {Workspace: long, Sandbox: long, Service: long},
		"0--1.apps.example":                                             {Workspace: "0", Sandbox: "1"},
	} {
		if got, ok := a.Parse(host); !ok || got != want {
			t.Errorf("%s: %+v %t, want %+v", host, got, ok, want)
		}
	}
	a.Gateway = []string{"own--name.apps.example"}
	for _, host := range []string{
		"own--name.apps.example", "Own--Name.apps.example.:8443", "", ".", "apps.example", "gw.apps.example", "box.apps.example", "a--b", "a--b.", "a--b.example", "a--b.evil.apps.example", "a--b.apps.example.evil",
		"a--b--c--d.apps.example", "a--.apps.example", "--a.apps.example", "a----b.apps.example", "a---b.apps.example", "-a--b.apps.example", "a--b-.apps.example",
		"a--b_c.apps.example", "a--b c.apps.example", "a--b%2e.apps.example", "a--b.apps.example:", "a--b.apps.example:x", "a--b.apps.example:123456",
		"a--b.apps.example:1:2", "[a--b.apps.example]", "a--b.apps.example..", "a--b..apps.example", "user@a--b.apps.example", "a--b.apps.example/",
		"a--" + long + "a.apps.example", "ä--b.apps.example", "a--b.apps.exampleK",
	} {
		if got, ok := a.Parse(host); ok {
			t.Errorf("%s: %+v", host, got)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	n := service.Name{Sandbox: "box", Service: "web"}
	for _, c := range []struct {
		a    service.Address
		want string
	}{
		{service.Address{Secure: true, Port: 8443}, "https://default--box--web.d.test:8443/"},
		{service.Address{Secure: true, Port: 443}, "https://default--box--web.d.test/"},
		{service.Address{Secure: true, Port: 80}, "https://default--box--web.d.test:80/"},
		{service.Address{Secure: true}, "https://default--box--web.d.test/"},
		{service.Address{Port: 80}, "http://default--box--web.d.test/"},
		{service.Address{Port: 443}, "http://default--box--web.d.test:443/"},
	} {
		c.a.Domains = []string{"d.test", "openshell.localhost"}
		if got := c.a.URL(n); got != c.want {
			t.Errorf("%+v: %s, want %s", c.a, got, c.want)
		}
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"localhost", "a.b", "xn--bcher-kva.example", "a-b.c"} {
		if !service.Domain(good) {
			t.Errorf("%q", good)
		}
	}
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", "A.b", "a_b", "-a.b", "a-.b", "a b", "*.a", strings.Repeat("a", 64), strings.Repeat("a.", 95) + "a"} {
		if service.Domain(bad) {
			t.Errorf("%q", bad)
		}
	}
}

// FuzzParse sees that no host is read in two ways: what is taken for a service's is the host that this service has.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"default--box--web.apps.example", "default--box.openshell.localhost:8080", "A--B.apps.example.", "a--b--c--d.apps.example", "a---b.apps.example",
		"[::1]:80", "a--b.apps.example:99999", "--.apps.example", "a--b\x00.apps.example",
	} {
		f.Add(seed)
	}
	a := service.Address{Secure: true, Domains: []string{"apps.example", "openshell.localhost"}}
	f.Fuzz(func(t *testing.T, host string) {
		n, ok := a.Parse(host)
		if !ok {
			return
		}
		label, rest, _ := strings.Cut(host, ".")
		own, _, _ := strings.Cut(a.Host(n), ".")
		if !strings.EqualFold(label, own) {
			t.Errorf("%q is taken for %q", host, own)
		}
		rest, _, _ = strings.Cut(rest, ":")
		if rest = strings.ToLower(strings.TrimSuffix(rest, ".")); rest != a.Domains[0] && rest != a.Domains[1] {
			t.Errorf("%q is taken for one of %q", host, rest)
		}
		if again, ok := a.Parse(a.Host(n)); !ok || again != n {
			t.Errorf("%+v is read as %+v", n, again)
		}
		if len(n.Workspace) > service.MaxName || len(n.Sandbox) > service.MaxName || len(n.Service) > service.MaxName {
			t.Errorf("%+v is too long", n)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	a := service.Address{Secure: true, Domains: []string{"apps.example", "openshell.localhost"}}
	for name, host := range map[string]string{"service": "default--box--web.openshell.localhost:8080", "gateway": "gateway.example.org:8080"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Parse(host)
			}
		})
	}
}
