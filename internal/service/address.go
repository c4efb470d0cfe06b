package service

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sallyport.dev/sallyport/internal/limits"
)

// DefaultDomain is the domain of services where none is configured. Browsers take every name in it for their own machine.
const DefaultDomain = "openshell.localhost"

// Address says where services are found: at "<workspace>--<sandbox>[--<service>]" in a domain.
type Address struct {
	// Secure tells whether URLs are https.
	Secure bool
	// Port is in URLs unless it is the scheme's own; 0 is too.
	Port uint16
	// Domains are those in which services are answered, in lower case and without a dot at either end. URLs have the
	// first.
	Domains []string
	// Gateway are names of the gateway itself, in lower case, which are no service's even where they look like it.
	Gateway []string
}

func (a Address) check() error {
	if len(a.Domains) == 0 {
		return errors.New("no domain")
	}
	for _, d := range a.Domains {
		if !Domain(d) {
			return fmt.Errorf("domain %q: it must be lowercase labels with dots between them", d)
		}
	}
	return nil
}

// maxDomain leaves room for the label of a service in a name of 253 bytes.
const maxDomain = 253 - 64

// Domain tells whether services can be in a domain of this name.
func Domain(name string) bool {
	if name == "" || len(name) > maxDomain {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || limits.DNSLabel("", strings.ReplaceAll(label, separator, "-"), 63) != nil {
			return false
		}
	}
	return true
}

// Scheme is that of URLs.
func (a Address) Scheme() string {
	if a.Secure {
		return "https"
	}
	return "http"
}

// Host is the host name of a service, with the port if it is not the scheme's own.
func (a Address) Host(n Name) string {
	n = n.settled()
	host := n.Workspace + separator + n.Key() + "." + a.Domains[0]
	if a.Port == 0 || a.Port == 443 && a.Secure || a.Port == 80 && !a.Secure {
		return host
	}
	return host + ":" + strconv.Itoa(int(a.Port))
}

// URL is where a service is found.
func (a Address) URL(n Name) string { return a.Scheme() + "://" + a.Host(n) + "/" }

// Parse reads the host of a request, with or without a port. It returns false for a host that no service can have: such
// a request is the gateway's own.
func (a Address) Parse(host string) (Name, bool) {
	name, port, hasPort := strings.Cut(host, ":")
	if hasPort && !decimal(port) {
		return Name{}, false
	}
	label, domain, ok := strings.Cut(strings.TrimSuffix(name, "."), ".")
	if !ok || len(label) > 63 || len(domain) > maxDomain || !a.in(domain) || a.own(name) {
		return Name{}, false
	}
	parts := strings.SplitN(strings.ToLower(label), separator, 4)
	if len(parts) < 2 || len(parts) > 3 {
		return Name{}, false
	}
	for _, part := range parts {
		if part == "" || limits.DNSLabel("", part, MaxName) != nil {
			return Name{}, false
		}
	}
	n := Name{Workspace: parts[0], Sandbox: parts[1]}
	if len(parts) == 3 {
		n.Service = parts[2]
	}
	return n, true
}

func (a Address) in(domain string) bool {
	for _, d := range a.Domains {
		if strings.EqualFold(domain, d) {
			return true
		}
	}
	return false
}

func (a Address) own(name string) bool {
	for _, g := range a.Gateway {
		if strings.EqualFold(strings.TrimSuffix(name, "."), g) {
			return true
		}
	}
	return false
}

func decimal(port string) bool {
	if port == "" || len(port) > 5 {
		return false
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return true
}
