package v00

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

// What clients of the older generation accept as a host, and what they take for the host they used already.
func accepted(host string) bool {
	return host != "" && len(host) <= 253 && strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:[]-") == ""
}

func TestWhereClientsConnect(t *testing.T) {
	t.Parallel()
	bind := netip.MustParseAddrPort
	for name, c := range map[string]struct {
		ssh       SSH
		authority string
		host      string
		port      uint16
	}{
		"settings":            {SSH{Host: "ssh.example", Port: 2222, Bind: bind("10.0.0.1:8080")}, "gw.example:9", "ssh.example", 2222},
		"host alone":          {SSH{Host: "ssh.example", Bind: bind("10.0.0.1:8080")}, "gw.example:9", "ssh.example", 9},
		"the caller's":        {SSH{Bind: bind("10.0.0.1:8080")}, "gw.example:9", "gw.example", 9},
		"without port":        {SSH{Bind: bind("10.0.0.1:8080")}, "gw.example", "gw.example", 80},
		"without port, TLS":   {SSH{TLS: true, Bind: bind("10.0.0.1:8080")}, "gw.example", "gw.example", 443},
		"IPv6":                {SSH{Bind: bind("10.0.0.1:8080")}, "[2001:db8::1]:9", "[2001:db8::1]", 9},
		"nothing known":       {SSH{Bind: bind("10.0.0.1:8080")}, "", "10.0.0.1", 8080},
		"a zone":              {SSH{Bind: bind("10.0.0.1:8080")}, "[fe80::1%25eth0]:9", "10.0.0.1", 8080},
		"somebody else's":     {SSH{Bind: bind("10.0.0.1:8080")}, "user@gw.example:9", "10.0.0.1", 8080},
		"a path":              {SSH{Bind: bind("10.0.0.1:8080")}, "gw.example/x", "10.0.0.1", 8080},
		"a shell's word":      {SSH{Bind: bind("10.0.0.1:8080")}, "$(id):9", "10.0.0.1", 8080},
		"port 0":              {SSH{Bind: bind("10.0.0.1:8080")}, "gw.example:0", "10.0.0.1", 8080},
		"port 65536":          {SSH{Bind: bind("10.0.0.1:8080")}, "gw.example:65536", "10.0.0.1", 8080},
		"all addresses":       {SSH{Bind: bind("0.0.0.0:8080")}, "", "0.0.0.0", 8080},
		"all IPv6 addresses":  {SSH{Bind: bind("[::]:8080")}, "", "0.0.0.0", 8080},
		"this machine":        {SSH{Bind: bind("[::1]:8080")}, "", "::1", 8080},
		"an IPv6 address":     {SSH{Bind: bind("[2001:db8::1]:8080")}, "", "[2001:db8::1]", 8080},
		"an IPv4 one as IPv6": {SSH{Bind: bind("[::ffff:10.0.0.1]:8080")}, "", "10.0.0.1", 8080},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if c.authority != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(headerAuthority, c.authority))
			}
			host, port := c.ssh.address(ctx)
			if host != c.host || port != c.port || !accepted(host) {
				t.Errorf("%s, %d; want %s, %d", host, port, c.host, c.port)
			}
		})
	}
}

func FuzzAuthority(f *testing.F) {
	for _, seed := range []string{"gw.example:9", "[::1]:443", "a@b", "x%20y:1", ":8080"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		ctx := metadata.NewIncomingContext(context.Background(), metadata.MD{headerAuthority: {authority}})
		s := SSH{Bind: netip.MustParseAddrPort("10.0.0.1:8080")}
		if host, port := s.address(ctx); !accepted(host) || port == 0 {
			t.Errorf("%q became %q, %d", authority, host, port)
		}
	})
}
