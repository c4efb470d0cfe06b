// Package site decides whether a request that a browser may have made is meant for this gateway: by the name it asks
// for, so that a page whose name was pointed at the gateway's address cannot speak to it (DNS rebinding), and by the
// page that made it. It knows no path and no credential.
package site

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Config names what is allowed beside the gateway's own.
type Config struct {
	// Hosts are names, "host" for every port or "host:port" for one, under which the gateway answers. Loopback
	// addresses, "localhost", and the address that a connection arrived at need no entry.
	Hosts []string
	// Origins are "scheme://host" or "scheme://host:port" whose pages may open a tunnel.
	Origins []string
}

// Policy is a checked Config. It may be used by many goroutines.
type Policy struct {
	hosts   map[string]bool
	origins map[string]bool
}

// New checks the configuration.
func New(c Config) (*Policy, error) {
	p := &Policy{hosts: map[string]bool{}, origins: map[string]bool{}}
	for _, h := range c.Hosts {
		name, port, ok := split(h)
		if !ok {
			return nil, fmt.Errorf("allowed host %q: it must read host or host:port", h)
		}
		p.hosts[join(name, port)] = true
	}
	for _, o := range c.Origins {
		origin, ok := parseOrigin(o)
		if !ok {
			return nil, fmt.Errorf("allowed origin %q: it must read http:// or https://, a host and perhaps a port", o)
		}
		p.origins[origin] = true
	}
	return p, nil
}

// Host tells whether the request asks for a name of the gateway.
func (p *Policy) Host(r *http.Request) bool {
	name, port, ok := split(r.Host)
	if !ok {
		return false
	}
	if name == "localhost" || p.hosts[name] || p.hosts[join(name, port)] {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	// No name was looked up to get here, so no name can have been pointed here.
	if addr.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap() == addr.Unmap()
}

// Origin tells whether the page that made the request is the gateway's own or an allowed one. Requests without the
// header are not made by scripts of a page.
func (p *Policy) Origin(r *http.Request) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true
	}
	if len(values) > 1 {
		return false
	}
	origin, ok := parseOrigin(values[0])
	if !ok {
		return false
	}
	if p.origins[origin] {
		return true
	}
	// The proxy in front may speak TLS for a gateway that does not. A gateway that does has no page without it.
	own, ok := parseOrigin("https://" + r.Host)
	if ok && origin == own {
		return true
	}
	own, ok = parseOrigin("http://" + r.Host)
	return ok && origin == own && r.TLS == nil
}

// Navigation tells whether the request loads a page into a window of its own, as far as the browser says what it is
// doing: not into a frame, and not as data for a script. Where the visitor came from does not count, since an identity
// provider sends people back from its own site.
func (p *Policy) Navigation(r *http.Request) bool {
	if !p.Origin(r) {
		return false
	}
	for name, want := range map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"} {
		if got := r.Header.Get(name); got != "" && got != want {
			return false
		}
	}
	return true
}

// split takes a host apart, in lower case and without the final dot; port is empty where there is none. An IPv6
// address with a port stands in brackets.
func split(host string) (name, port string, ok bool) {
	var hasPort bool
	if rest, bracket := strings.CutPrefix(host, "["); bracket {
		if name, port, ok = strings.Cut(rest, "]"); !ok {
			return "", "", false
		}
		port, hasPort = strings.CutPrefix(port, ":")
		if !strings.Contains(name, ":") || (!hasPort && port != "") {
			return "", "", false
		}
	} else if name, port, hasPort = strings.Cut(host, ":"); strings.Contains(port, ":") {
		name, port, hasPort = host, "", false
	}
	if hasPort {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return "", "", false
		}
	}
	if strings.Contains(name, ":") {
		addr, err := netip.ParseAddr(name)
		return addr.String(), port, err == nil
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return "", "", false
		}
	}
	return name, port, name != ""
}

func join(name, port string) string {
	if port == "" {
		return name
	}
	return net.JoinHostPort(name, port)
}

// parseOrigin returns an origin in the form in which two of them can be compared.
func parseOrigin(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", false
	}
	scheme := strings.ToLower(u.Scheme)
	if scheme != "http" && scheme != "https" {
		return "", false
	}
	name, port, ok := split(u.Host)
	if !ok {
		return "", false
	}
	if (scheme == "http" && port == "80") || (scheme == "https" && port == "443") {
		port = ""
	}
	return scheme + "://" + join(name, port), true
}
