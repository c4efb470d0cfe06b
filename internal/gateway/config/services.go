package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Services are ports of sandboxes that are served under host names of their own.
type Services struct {
	// Domains are those under which a service is answered, the one of its URL first.
	Domains []string
	// Gateway are names of the gateway itself, which are no service's.
	Gateway []string
	// Secure tells whether URLs are https, Port is the one in them.
	Secure bool
	Port   uint16
	// SessionTTL is how long a browser stays signed in to a service.
	SessionTTL time.Duration
	// Loopback serves them over plain HTTP, without authentication, to peers on the same machine.
	Loopback bool
}

// defaultServiceDomain is that of the reference. Browsers take every name in it for their own machine.
const defaultServiceDomain = "openshell.localhost"

var serviceSettings = []setting{
	{
		name: "server-san", env: "OPENSHELL_SERVER_SAN", file: "gateway.server_sans", topic: topicServices, kind: list,
		usage: "names of the gateway's certificate; *.DOMAIN among them also serves sandbox services under DOMAIN",
		more:  "The certificate itself is made elsewhere; other names are the gateway's, and no service's. `openshell.localhost` is always served.",
	},
	{
		name: "service-url", env: "SALLYPORT_SERVICE_URL", file: "gateway.services.url", topic: topicServices, form: serviceURL,
		shown: "the first domain of `--server-san`, else `openshell.localhost`, at the gateway's own port",
		usage: "scheme, domain and port of the URLs of sandbox services, as https://apps.example.org[:port]",
		more:  "Where a proxy, an Ingress or a load balancer stands in front. The names are one label below the domain.",
	},
	{
		name: "service-session-ttl-secs", env: "SALLYPORT_SERVICE_SESSION_TTL_SECS", file: "gateway.services.session_ttl_secs", topic: topicServices, kind: number,
		preset: "28800", least: 60, most: 30 * 86400,
		usage: "seconds that a browser stays signed in to a sandbox service", more: "It ends with the user's access and with the sandbox, too.",
	},
	{
		name: "enable-loopback-service-http", env: "OPENSHELL_ENABLE_LOOPBACK_SERVICE_HTTP", file: "gateway.enable_loopback_service_http", topic: topicServices, kind: boolean, preset: "false",
		usage: "INSECURE: serve sandbox services over plain HTTP to every program of this machine, without signing in",
		more:  "On a loopback address only. The newer reference does so unless it is switched off.",
	},
}

// serviceURL is a form: an origin whose host is a domain.
func serviceURL(value string) (cause, remedy string) {
	cause, remedy = originURL(value)
	if cause != "" {
		return cause, remedy
	}
	const how = "write https://apps.example.org[:port], without a star"
	u, err := url.Parse(value)
	if err != nil {
		return "not a URL", how
	}
	if !isDomain(strings.ToLower(u.Hostname())) {
		return fmt.Sprintf("not a domain: %q", u.Hostname()), how
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && err != nil {
		return fmt.Sprintf("not a port: %q", u.Port()), how
	}
	return "", ""
}

func (c *Config) services(v *values) {
	s := Services{
		SessionTTL: time.Duration(v.number("service-session-ttl-secs")) * time.Second, Loopback: v.flag("enable-loopback-service-http"),
		Secure: c.TLS.Certificate != "", Port: c.Listen.Address.Port(),
	}
	loopback := c.Listen.Address.Addr().Unmap().IsLoopback()
	if s.Loopback && loopback {
		s.Secure = false // As in the reference: the URL is the one that needs no certificate.
		v.warn("--enable-loopback-service-http: every program and every user of this machine reaches the services of all sandboxes without signing in")
	} else if s.Loopback {
		s.Loopback = false
		v.warn("%s has no effect: the gateway does not listen on a loopback address", v.said("enable-loopback-service-http"))
	}
	add := func(domain string) {
		domain = strings.ToLower(domain)
		if !slices.Contains(s.Domains, domain) {
			s.Domains = append(s.Domains, domain)
		}
	}
	if text := v.text("service-url"); text != "" {
		u, err := url.Parse(text)
		if err != nil {
			return // The form has refused it.
		}
		add(u.Hostname())
		s.Secure, s.Port = u.Scheme == "https", 0
		if u.Port() != "" {
			port, _ := strconv.ParseUint(u.Port(), 10, 16) // The form has refused what is no port.
			s.Port = uint16(port)
		}
	}
	for _, name := range v.list("server-san") {
		domain, wildcard := strings.CutPrefix(name, "*.")
		if !wildcard {
			s.Gateway = append(s.Gateway, strings.ToLower(strings.TrimSuffix(name, ".")))
			continue
		}
		if !isDomain(strings.ToLower(domain)) {
			v.fail("server-san", fmt.Sprintf("not a wildcard name: %q", name), "write *.example.org, where the star stands for one label")
			continue
		}
		add(domain)
	}
	for _, host := range c.Edge.AllowedHosts {
		if u, err := url.Parse("https://" + host); err == nil {
			s.Gateway = append(s.Gateway, strings.ToLower(u.Hostname()))
		}
	}
	add(defaultServiceDomain)
	c.Services = s
}

// isDomain tells whether services can be in a domain of this name: what browsers resolve, and no address.
func isDomain(name string) bool {
	if cause, _ := serverName(name); cause != "" || strings.Trim(name, "0123456789.") == "" || strings.ContainsAny(name, "*_") || len(name) > 189 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}
