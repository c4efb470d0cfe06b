package config_test

import (
	"slices"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/gateway/config"
)

func TestServices(t *testing.T) {
	t.Parallel()
	tls := []string{"--tls-cert", "/c", "--tls-key", "/k"}
	for name, c := range map[string]struct {
		args    []string
		want    config.Services
		warning string
	}{
		"default": {
			tls, config.Services{Domains: []string{"openshell.localhost"}, Secure: true, Port: 18000}, "",
		},
		"without TLS": {
			[]string{"--disable-tls"}, config.Services{Domains: []string{"openshell.localhost"}, Port: 18000}, "",
		},
		"wildcards": {
			append([]string{"--allowed-hosts", "A--b.apps.test:443", "--server-san", "gw.test,10.0.0.1,*.Apps.test", "--server-san", "*.more.test,*.apps.test"}, tls...),
			config.Services{Domains: []string{"apps.test", "more.test", "openshell.localhost"}, Secure: true, Port: 18000, Gateway: []string{"gw.test", "10.0.0.1", "a--b.apps.test"}},
			"",
		},
		"behind a proxy": {
			[]string{"--disable-tls", "--service-url", "https://apps.test", "--server-san", "*.more.test"},
			config.Services{Domains: []string{"apps.test", "more.test", "openshell.localhost"}, Secure: true},
			"",
		},
		"another port": {
			append([]string{"--service-url", "http://apps.test:8081"}, tls...),
			config.Services{Domains: []string{"apps.test", "openshell.localhost"}, Port: 8081},
			"",
		},
		"loopback": {
			append([]string{"--enable-loopback-service-http", "true"}, tls...),
			config.Services{Domains: []string{"openshell.localhost"}, Port: 18000, Loopback: true},
			"without signing in",
		},
		"loopback on all addresses": {
			append([]string{"--enable-loopback-service-http=true", "--bind-address", "0.0.0.0"}, tls...),
			config.Services{Domains: []string{"openshell.localhost"}, Secure: true, Port: 18000},
			"does not listen on a loopback address",
		},
		"loopback off": {
			append([]string{"--enable-loopback-service-http", "false"}, tls...),
			config.Services{Domains: []string{"openshell.localhost"}, Secure: true, Port: 18000},
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--port", "18000", "--drivers", "x", "--compute-driver-socket", "/s", "--db-url", "sqlite:/x/y.db"}, c.args...)
			cfg, err := parse(t, nil, args...)
			if err != nil {
				t.Fatal(err)
			}
			got := cfg.Services
			if !slices.Equal(got.Domains, c.want.Domains) || got.Secure != c.want.Secure || got.Port != c.want.Port || got.Loopback != c.want.Loopback || !slices.Equal(got.Gateway, c.want.Gateway) ||
				got.SessionTTL.Hours() != 8 {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			said := slices.ContainsFunc(cfg.Warnings, func(w string) bool { return c.warning != "" && strings.Contains(w, c.warning) })
			if said != (c.warning != "") {
				t.Errorf("warnings: %q", cfg.Warnings)
			}
		})
	}
}
