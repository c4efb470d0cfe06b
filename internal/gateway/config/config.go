// Package config reads the gateway's settings: command line, then environment, then configuration file, then
// default, the order of the reference gateways. Every flag and variable of both 0.0.x generations is accepted; one
// that has no effect here is reported, never ignored in silence. One table of settings makes flags, help, file keys,
// checks, the JSON schema and the documents. The package starts nothing and reads no key or certificate.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// Parse reads args (without the program's name), the environment and the configuration file. Its error is ErrHelp or
// Problems, which has everything that is wrong.
func Parse(args []string, env func(string) (string, bool)) (*Config, error) {
	c, problems, err := Check(args, env)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, problems
	}
	return c, nil
}

// Check is Parse for those who want the warnings beside the problems. The configuration is to be used only if there
// are no problems. The error is ErrHelp or nil.
func Check(args []string, env func(string) (string, bool)) (*Config, Problems, error) {
	return check(args, env, nil)
}

// ParseText is Parse with this text instead of the configuration file's.
func ParseText(args []string, env func(string) (string, bool), file []byte) (*Config, error) {
	if file == nil {
		file = []byte{}
	}
	c, problems, err := check(args, env, file)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, problems
	}
	return c, nil
}

func check(args []string, env func(string) (string, bool), file []byte) (*Config, Problems, error) {
	v, err := load(args, env, file)
	if problems, ok := err.(Problems); ok { //nolint:errorlint // reason: load returns it as it is
		return &Config{}, problems, nil
	}
	if err != nil {
		return nil, nil, err
	}
	c := &Config{}
	c.listen(v)
	c.database(v)
	c.credentialKey(v)
	c.drivers(v)
	c.issuers(v)
	c.authorization(v)
	c.tls(v)
	c.open(v)
	c.sandbox(v)
	c.kubernetes(v)
	c.edge(v)
	c.services(v)
	c.limits(v)
	c.audit(v)
	c.tracing(v)
	v.reportUnused()
	c.File = v.text("config")
	c.Warnings = v.warnings
	c.entries = entriesOf(v, c)
	return c, v.problems, nil
}

func (c *Config) listen(v *values) {
	c.LogLevel = strings.ToLower(v.text("log-level"))
	if c.LogLevel == "trace" {
		c.LogLevel = "debug"
	}
	c.LogFormat = strings.ToLower(v.text("log-format"))
	c.ShutdownGrace = time.Duration(v.number("shutdown-grace-secs")) * time.Second
	ip, err := netip.ParseAddr(v.text("bind-address"))
	if err != nil {
		v.fail("bind-address", "must be an IP address, got \"\"", "write an address such as 127.0.0.1")
		ip = netip.IPv6Unspecified()
	}
	c.Listen = Listen{
		Address: netip.AddrPortFrom(ip, uint16(v.number("port"))), FastPath: !v.flag("disable-fast-path"),
		Health:  sideAddress(v, "health-port", "health-bind-address", ip),
		Metrics: sideAddress(v, "metrics-port", "metrics-bind-address", ip),
	}
	for _, text := range v.list("public-addresses") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			v.fail("public-addresses", fmt.Sprintf("not an IP address: %q", text), "write addresses such as 192.0.2.1")
			break
		}
		c.Listen.Public = append(c.Listen.Public, a)
	}
	c.SSH = SSH{
		Host: v.text("ssh-gateway-host"), Port: int(v.number("ssh-gateway-port")), Path: v.text("ssh-connect-path"),
		TTL: time.Duration(v.number("ssh-session-ttl-secs")) * time.Second,
	}
	main, health, metrics := c.Listen.Address.Port(), c.Listen.Health.Port(), c.Listen.Metrics.Port()
	switch {
	case health != 0 && health == main:
		v.fail("health-port", "--port and --health-port must be different", "choose another")
	case metrics != 0 && metrics == main:
		v.fail("metrics-port", "--port and --metrics-port must be different", "choose another")
	case metrics != 0 && metrics == health:
		v.fail("metrics-port", "--health-port and --metrics-port must be different", "choose another")
	}
}

// sideAddress follows the reference: a port given by flag or variable wins with the main IP, then the file's full
// address, then off.
func sideAddress(v *values, portName, addrName string, ip netip.Addr) netip.AddrPort {
	if v.set(portName) || v.text(addrName) == "" {
		port := uint16(v.number(portName))
		if port == 0 {
			return netip.AddrPort{}
		}
		v.derive(addrName, netip.AddrPortFrom(ip, port).String(), "from "+v.said(portName))
		return netip.AddrPortFrom(ip, port)
	}
	a, err := netip.ParseAddrPort(v.text(addrName))
	if err != nil {
		return netip.AddrPort{} // Already a problem.
	}
	v.derive(portName, fmt.Sprint(a.Port()), "from "+v.said(addrName))
	return a
}

func (c *Config) drivers(v *values) {
	names := v.list("drivers")
	c.Drivers = Drivers{CredentialsSocket: v.text("credentials-driver-socket"), ComputeSocket: v.text("compute-driver-socket")}
	for _, name := range []string{"compute-driver-socket", "credentials-driver-socket"} {
		if v.set(name) && v.text(name) == "" {
			v.fail(name, "--"+name+" must not be an empty path", "name the socket or leave it out")
			return
		}
	}
	switch {
	case len(names) > 1:
		v.fail("drivers", "multiple compute drivers are not supported yet; configured drivers: "+strings.Join(names, ","), "name one")
		return
	case len(names) == 0 && c.Drivers.ComputeSocket != "":
		v.fail("compute-driver-socket", "--compute-driver-socket requires --drivers", "add a name, for example --drivers external")
		return
	case len(names) == 0:
		v.fail("drivers", "no compute driver configured and auto-detection found no suitable one",
			"start a driver such as sallyport-driver-process and pass --drivers external --compute-driver-socket PATH")
		return
	}
	c.Drivers.Name = strings.ToLower(names[0])
	if strings.Trim(c.Drivers.Name, dnsLetters) != "" {
		v.fail("drivers", fmt.Sprintf("unsupported compute driver '%s'", c.Drivers.Name), "use letters, digits, hyphens and underscores")
		return
	}
	if c.Drivers.ComputeSocket == "" {
		c.Drivers.ComputeSocket = v.sockets[c.Drivers.Name]
		v.derive("compute-driver-socket", c.Drivers.ComputeSocket, joined("openshell.drivers", c.Drivers.Name)+".socket_path")
	}
	if c.Drivers.ComputeSocket == "" {
		v.fail("compute-driver-socket", fmt.Sprintf("remote compute driver '%s' requires socket_path", c.Drivers.Name), "pass --compute-driver-socket PATH")
	}
}

// open is what lets callers in without a token.
func (c *Config) open(v *values) {
	c.Auth.AllowUnauthenticated = v.flag("allow-unauthenticated-users")
	if c.Auth.AllowUnauthenticated {
		v.warn("--allow-unauthenticated-users: every caller without a token is an administrator")
		if !c.Listen.Address.Addr().IsLoopback() && !c.TLS.RequireClient {
			v.fail("allow-unauthenticated-users", "--allow-unauthenticated-users is refused on an address that others can reach", "bind to 127.0.0.1, or require client certificates with --tls-client-ca")
		}
	}
	c.MTLS = MTLSAuth{Enabled: v.flag("enable-mtls-auth"), DefaultRoles: v.list("mtls-default-roles")}
	switch {
	case !c.MTLS.Enabled:
		if v.set("mtls-default-roles") {
			v.warn("%s has no effect without --enable-mtls-auth", v.said("mtls-default-roles"))
		}
	case v.flag("disable-tls"):
		v.fail("enable-mtls-auth", "client certificates need TLS, and it is disabled", "remove --disable-tls or --enable-mtls-auth")
	case c.TLS.Certificate != "" && c.TLS.ClientCA == "":
		v.fail("enable-mtls-auth", "no authority of client certificates is named", "pass --tls-client-ca")
	case c.Drivers.Name == "kubernetes":
		v.fail("enable-mtls-auth", "refused with the driver kubernetes, whose sandboxes hold such a certificate", "use an OIDC issuer for people")
	case c.Authorization.Tenant != "":
		v.warn("--enable-mtls-auth: a certificate names no tenant; whoever holds one counts as of %q", c.Authorization.Tenant)
	}
	if len(c.Issuers) == 0 && !c.Auth.AllowUnauthenticated && !c.MTLS.Enabled {
		v.warn("no --oidc-issuer: every user call is refused; pass --allow-unauthenticated-users for a development gateway")
	}
}

func (c *Config) edge(v *values) {
	c.Edge = Edge{
		Connect: v.flag("edge-auth"), Tunnel: v.flag("websocket-tunnel"),
		AllowedOrigins: v.list("allowed-origins"), AllowedHosts: v.list("allowed-hosts"),
	}
	if v.set("allowed-origins") && !c.Edge.Tunnel {
		v.warn("%s has no effect without --websocket-tunnel", v.said("allowed-origins"))
	}
	if c.Edge.Connect && len(c.Edge.AllowedHosts) == 0 && !c.Listen.Address.Addr().IsLoopback() {
		v.warn("--edge-auth: the page answers under no name but the bound address; name the proxy's in --allowed-hosts")
	}
}

func (c *Config) audit(v *values) {
	c.Audit = Audit{
		Enabled: v.flag("audit-enabled"), Dir: v.text("audit-dir"), MaxBytes: v.number("audit-max-bytes"),
		KeepFiles: int(v.number("audit-keep-files")), OTLPEndpoint: v.text("audit-otlp-endpoint"),
	}
	if !c.Audit.Enabled {
		if v.set("audit-otlp-endpoint") {
			v.warn("%s has no effect: the audit is off", v.said("audit-otlp-endpoint"))
		}
		return
	}
	if c.Audit.Dir != "" {
		return
	}
	if v.set("audit-enabled") && len(v.problems) == 0 {
		v.fail("audit-enabled", "there is no folder for the audit log, as the database is in memory", "set --audit-dir")
		return
	}
	v.warn("the audit is off: the database is in memory and there is no --audit-dir")
	c.Audit.Enabled = false
	v.derive("audit-enabled", "false", "no folder for it")
}

// Endpoint is how the gateway is reached on this machine.
func (c *Config) Endpoint() string {
	scheme := "https"
	if c.TLS.Certificate == "" {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort(c.Listen.Address.Addr().String(), fmt.Sprint(c.Listen.Address.Port()))
}

// loopbackURL says whether a URL points to this machine.
func loopbackURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || (err == nil && ip.IsLoopback())
}

// present counts the files that exist. Another failure than absence is a problem of its own.
func (v *values) present(name string, files []string) int {
	n := 0
	for _, f := range files {
		switch _, err := os.Stat(f); {
		case err == nil:
			n++
		case !os.IsNotExist(err):
			v.fail(name, fmt.Sprintf("look for %s: %v", f, err), "let the gateway's user read it")
		}
	}
	return n
}
