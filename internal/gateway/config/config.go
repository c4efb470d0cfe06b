// Package config reads the gateway's settings: command line, then environment, then configuration file, then
// default, the order of the reference gateways. Every flag and variable of both 0.0.x generations is accepted; one
// that has no effect here is reported, never ignored in silence.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Parse reads args (without the program's name), the environment and the configuration file.
func Parse(args []string, env func(string) (string, bool)) (*Config, error) {
	v, err := load(args, env)
	if err != nil {
		return nil, err
	}
	c := &Config{
		LogLevel: level(v.text("log-level")), DatabaseURL: v.text("db-url"),
		ShutdownGrace: time.Duration(v.number("shutdown-grace-secs")) * time.Second,
		OIDC: OIDC{
			Issuer: v.text("oidc-issuer"), Audience: v.text("oidc-audience"), DiscoveryURL: v.text("oidc-discovery-url"),
			KeysTTL: time.Duration(v.number("oidc-jwks-ttl")) * time.Second, RolesClaim: v.text("oidc-roles-claim"),
			ScopesClaim: v.text("oidc-scopes-claim"), AdminRole: v.text("oidc-admin-role"), UserRole: v.text("oidc-user-role"),
			AllowMissingAudience: v.flag("oidc-allow-missing-audience"),
		},
		Auth: Auth{AllowUnauthenticated: v.flag("allow-unauthenticated-users")},
		Sandbox: SandboxIdentity{
			KeyDir: v.text("sandbox-key-dir"), GatewayID: v.text("gateway-id"),
			TTL: time.Duration(v.number("sandbox-token-ttl-secs")) * time.Second,
		},
		Drivers: Drivers{CredentialsSocket: v.text("credentials-driver-socket"), ComputeSocket: v.text("compute-driver-socket")},
	}
	err = errors.Join(
		c.listen(v), c.tls(v), c.database(env), c.drivers(v), c.checkOIDC(v), c.secret(v),
	)
	if err != nil {
		return nil, err
	}
	c.Warnings = append(c.Warnings, v.unused()...)
	return c, nil
}

// level maps the reference's finest level to the finest there is.
func level(name string) string {
	if strings.EqualFold(name, "trace") {
		return "debug"
	}
	return name
}

func (c *Config) listen(v *values) error {
	ip, err := netip.ParseAddr(v.text("bind-address"))
	if err != nil {
		return fmt.Errorf("--bind-address must be an IP address, got %q", v.text("bind-address"))
	}
	port, health, metrics := v.number("port"), v.number("health-port"), v.number("metrics-port")
	for name, p := range map[string]int{"port": port, "health-port": health, "metrics-port": metrics} {
		if p < 0 || p > 65535 {
			return fmt.Errorf("--%s must be between 0 and 65535, got %d", name, p)
		}
	}
	switch {
	case health != 0 && health == port:
		return errors.New("--port and --health-port must be different")
	case metrics != 0 && metrics == port:
		return errors.New("--port and --metrics-port must be different")
	case metrics != 0 && metrics == health:
		return errors.New("--health-port and --metrics-port must be different")
	}
	c.Listen = Listen{Address: netip.AddrPortFrom(ip, uint16(port)), FastPath: !v.flag("disable-fast-path")}
	if c.Listen.Health, err = sideAddress(v, "health-port", "health-bind-address", ip, health); err != nil {
		return err
	}
	c.Listen.Metrics, err = sideAddress(v, "metrics-port", "metrics-bind-address", ip, metrics)
	return err
}

// sideAddress follows the reference: a port given by flag or variable wins with the main IP, then the file's full
// address, then off.
func sideAddress(v *values, portName, addrName string, ip netip.Addr, port int) (netip.AddrPort, error) {
	if v.set(portName) || v.text(addrName) == "" {
		if port == 0 {
			return netip.AddrPort{}, nil
		}
		return netip.AddrPortFrom(ip, uint16(port)), nil
	}
	a, err := netip.ParseAddrPort(v.text(addrName))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s must be ip:port, got %q", addrName, v.text(addrName))
	}
	return a, nil
}

func (c *Config) tls(v *values) error {
	cert, key, ca := v.text("tls-cert"), v.text("tls-key"), v.text("tls-client-ca")
	if v.flag("disable-tls") {
		if ca != "" {
			return errors.New("--disable-tls and --tls-client-ca are mutually exclusive")
		}
		if !c.Listen.Address.Addr().IsLoopback() {
			c.Warnings = append(c.Warnings, "--disable-tls: bearer tokens cross the network in clear text unless a proxy in front ends TLS")
		}
		return nil
	}
	switch {
	case cert == "":
		return errors.New("--tls-cert is required when TLS is enabled; pass --tls-cert and --tls-key, or --disable-tls")
	case key == "":
		return errors.New("--tls-key is required when TLS is enabled")
	}
	c.TLS = TLS{
		Certificate: cert, Key: key, ClientCA: ca,
		RequireClient: ca != "" && c.OIDC.Issuer == "" && !v.flag("disable-gateway-auth"),
	}
	return nil
}

func (c *Config) database(env func(string) (string, bool)) error {
	if c.DatabaseURL == "" {
		dir, err := stateHome(env)
		if err != nil {
			return fmt.Errorf("--db-url is not set and no state directory can be found: %w", err)
		}
		c.DatabaseURL = "sqlite:" + filepath.Join(dir, "openshell", "gateway", "openshell.db")
	}
	path, ok := strings.CutPrefix(c.DatabaseURL, "sqlite:")
	if !ok {
		return fmt.Errorf("unsupported database URL scheme in --db-url; only sqlite: is served by this version")
	}
	path, _, _ = strings.Cut(strings.TrimPrefix(path, "//"), "?")
	if path != "" && path != ":memory:" {
		c.StateDir = filepath.Dir(path)
		if c.Sandbox.KeyDir == "" {
			c.Sandbox.KeyDir = filepath.Join(c.StateDir, "sandbox-keys")
		}
	} else {
		c.Warnings = append(c.Warnings, "the database is in memory: everything is lost when the gateway stops")
	}
	return nil
}

func (c *Config) drivers(v *values) error {
	var names []string
	for n := range strings.SplitSeq(v.text("drivers"), ",") {
		if n = strings.ToLower(strings.TrimSpace(n)); n != "" {
			names = append(names, n)
		}
	}
	switch {
	case len(names) > 1:
		return fmt.Errorf("multiple compute drivers are not supported yet; configured drivers: %s", strings.Join(names, ","))
	case v.set("compute-driver-socket") && c.Drivers.ComputeSocket == "":
		return errors.New("--compute-driver-socket must not be an empty path")
	case v.set("credentials-driver-socket") && c.Drivers.CredentialsSocket == "":
		return errors.New("--credentials-driver-socket must not be an empty path")
	case len(names) == 0 && c.Drivers.ComputeSocket != "":
		return errors.New("--compute-driver-socket requires --drivers, for example --drivers external")
	case len(names) == 0:
		return errors.New("no compute driver configured and auto-detection found no suitable one: " +
			"start a driver such as sallyport-driver-process and pass --drivers external --compute-driver-socket PATH")
	}
	c.Drivers.Name = names[0]
	if strings.Trim(c.Drivers.Name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return fmt.Errorf("unsupported compute driver '%s'", c.Drivers.Name)
	}
	if c.Drivers.ComputeSocket == "" {
		c.Drivers.ComputeSocket = v.driverSocket(c.Drivers.Name)
	}
	if c.Drivers.ComputeSocket == "" {
		return fmt.Errorf("remote compute driver '%s' requires socket_path: pass --compute-driver-socket PATH", c.Drivers.Name)
	}
	return nil
}

func (c *Config) checkOIDC(v *values) error {
	if v.set("oidc-issuer") && c.OIDC.Issuer == "" {
		return errors.New("--oidc-issuer must not be empty; leave it out to run without OIDC")
	}
	if (c.OIDC.AdminRole == "") != (c.OIDC.UserRole == "") {
		return errors.New("OIDC RBAC misconfiguration: --oidc-admin-role and --oidc-user-role must both be set, or both be empty for authentication only")
	}
	if c.OIDC.AdminRole == "" && c.OIDC.Issuer != "" {
		c.Warnings = append(c.Warnings, "both OIDC role names are empty: every signed-in user is an administrator")
	}
	if c.OIDC.Issuer == "" {
		if !c.Auth.AllowUnauthenticated {
			c.Warnings = append(c.Warnings, "no --oidc-issuer: every user call is refused; pass --allow-unauthenticated-users for a development gateway")
		}
		return nil
	}
	if c.OIDC.AllowMissingAudience {
		c.Warnings = append(c.Warnings, "--oidc-allow-missing-audience: tokens made for other services of the issuer are accepted if they name no audience")
	}
	return nil
}

func (c *Config) secret(v *values) error {
	secret := v.text("ssh-handshake-secret")
	if !v.flag("allow-shared-sandbox-secret") {
		if secret != "" {
			c.Warnings = append(c.Warnings, "--ssh-handshake-secret has no effect without --allow-shared-sandbox-secret: every sandbox has an identity of its own")
		}
	} else {
		if len(secret) < 16 {
			return errors.New("--allow-shared-sandbox-secret needs --ssh-handshake-secret with at least 16 characters")
		}
		c.Auth.SharedSecret = secret
		c.Warnings = append(c.Warnings, "--allow-shared-sandbox-secret: supervisors that know only the shared secret are served; any sandbox that holds it can act for another, and whoever reaches the port can open the session of a sandbox whose id it knows")
	}
	if c.Auth.AllowUnauthenticated {
		c.Warnings = append(c.Warnings, "--allow-unauthenticated-users: every caller without a token is an administrator")
		if !c.Listen.Address.Addr().IsLoopback() && !c.TLS.RequireClient {
			return errors.New("--allow-unauthenticated-users is refused on an address that others can reach; bind to 127.0.0.1, or require client certificates with --tls-client-ca")
		}
	}
	if v.flag("enable-mtls-auth") {
		return errors.New("--enable-mtls-auth is not built yet; see docs/status.md")
	}
	return nil
}

// Endpoint is how the gateway is reached on this machine.
func (c *Config) Endpoint() string {
	scheme := "https"
	if c.TLS.Certificate == "" {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort(c.Listen.Address.Addr().String(), fmt.Sprint(c.Listen.Address.Port()))
}

func stateHome(env func(string) (string, bool)) (string, error) {
	if dir, ok := env("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return dir, nil
	}
	home, ok := env("HOME")
	if !ok || home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(home, ".local", "state"), nil
}
