package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// authorization chooses the mode. The reference has no name for it: two empty role names mean ModeAuthenticated.
func (c *Config) authorization(v *values) {
	a := Authorization{Mode: Mode(v.text("authorization-mode")), AdminRole: v.text("oidc-admin-role"), UserRole: v.text("oidc-user-role")}
	c.Authorization = a
	if (a.AdminRole == "") != (a.UserRole == "") {
		empty := "oidc-admin-role"
		if a.UserRole == "" {
			empty = "oidc-user-role"
		}
		v.fail(empty, "OIDC RBAC misconfiguration: --oidc-admin-role and --oidc-user-role must both be set, or both be empty for authentication only", "set both")
		return
	}
	none := a.AdminRole == ""
	switch {
	case a.Mode == "" && none:
		a.Mode = ModeAuthenticated
		v.derive("authorization-mode", string(a.Mode), "both role names are empty")
		v.warnEverybody(c, "both OIDC role names are empty")
	case a.Mode == "":
		a.Mode = ModeRoles
		v.derive("authorization-mode", string(a.Mode), "default")
	case a.Mode == ModeAuthenticated:
		for _, name := range []string{"oidc-admin-role", "oidc-user-role"} {
			if v.set(name) && v.text(name) != "" {
				v.fail(name, "the mode authenticated knows no roles", "remove it, or choose the mode roles or workspaces")
			}
			v.derive(name, "", "the mode authenticated knows no roles")
		}
		a.AdminRole, a.UserRole = "", ""
		v.warnEverybody(c, "--authorization-mode authenticated")
	case none:
		v.fail("authorization-mode", fmt.Sprintf("the mode %s needs role names, and both are empty", a.Mode), "set --oidc-admin-role and --oidc-user-role, or choose the mode authenticated")
	}
	switch v.text("sandbox-ownership") {
	case "private":
		a.PrivateSandboxes = true
	case "auto":
		a.PrivateSandboxes = a.Mode == ModeRoles
	}
	c.Authorization = a
	c.tenant(v)
}

func (v *values) warnEverybody(c *Config, why string) {
	if len(c.Issuers) > 0 || v.flag("enable-mtls-auth") {
		v.warn("%s: every signed-in user is an administrator", why)
	}
}

// tenant binds every issuer to the gateway's tenant.
func (c *Config) tenant(v *values) {
	name, claim := v.text("tenant"), v.text("tenant-claim")
	switch {
	case name == "" && claim == "":
		return
	case name == "":
		v.fail("tenant-claim", "without a tenant it binds nothing", "set --tenant")
		return
	case claim == "":
		v.fail("tenant", "no claim names the tenants of a user", "set --tenant-claim, for example to groups")
		return
	case len(c.Issuers) == 0:
		v.warn("%s has no effect without an issuer", v.said("tenant"))
	}
	c.Authorization.Tenant, c.Authorization.TenantClaim = name, claim
	for n := range c.Issuers {
		i := &c.Issuers[n]
		if i.Tenant != "" && i.Tenant != name {
			v.fail("tenant", fmt.Sprintf("issuer %s is of the tenant %q", i.Name, i.Tenant), "give both the same name, or run a gateway for each tenant")
		}
		i.Tenant = name
		bound := RequiredClaim{Claim: claim, Values: []string{name}}
		if !slices.ContainsFunc(i.Required, func(r RequiredClaim) bool { return r.Claim == claim && slices.Equal(r.Values, bound.Values) }) {
			i.Required = append(i.Required, bound)
		}
	}
}

func (c *Config) tls(v *values) {
	options := []string{"tls-cert", "tls-key", "tls-client-ca"}
	external := []string{"tls-external-cert", "tls-external-key", "tls-external-server-names"}
	if v.flag("disable-tls") {
		if v.text("tls-client-ca") != "" {
			v.fail("tls-client-ca", "--disable-tls and --tls-client-ca are mutually exclusive", "remove one: without TLS nobody can be asked for a certificate")
		}
		if v.flag("tls-require-client-auth") {
			v.fail("tls-require-client-auth", "without TLS nobody can be asked for a certificate", "remove it or --disable-tls")
		}
		for _, name := range append(options[:2:2], external...) {
			if v.set(name) {
				v.warn("%s has no effect with --disable-tls", v.said(name))
			}
		}
		if !c.Listen.Address.Addr().IsLoopback() {
			v.warn("--disable-tls: bearer tokens cross the network in clear text unless a proxy in front ends TLS")
		}
		return
	}
	if !slices.ContainsFunc(options, v.set) {
		v.localTLS()
	}
	t := TLS{Certificate: v.text("tls-cert"), Key: v.text("tls-key"), ClientCA: v.text("tls-client-ca")}
	switch {
	case t.Certificate == "":
		v.fail("tls-cert", "--tls-cert is required when TLS is enabled", "pass --tls-cert and --tls-key, or --disable-tls")
	case t.Key == "":
		v.fail("tls-key", "--tls-key is required when TLS is enabled", "pass it")
	}
	t.RequireClient = t.ClientCA != "" && len(c.Issuers) == 0 && !v.flag("disable-gateway-auth")
	if v.text("tls-require-client-auth") != "" {
		t.RequireClient = v.flag("tls-require-client-auth")
		if t.RequireClient && v.flag("disable-gateway-auth") {
			v.fail("tls-require-client-auth", "--disable-gateway-auth says the opposite", "remove one")
		}
		if t.RequireClient && t.ClientCA == "" {
			v.fail("tls-require-client-auth", "no authority of client certificates is named", "pass --tls-client-ca")
		}
	}
	v.derive("tls-require-client-auth", fmt.Sprint(t.RequireClient), "from the other settings")
	c.TLS = t
	c.externalTLS(v)
}

func (c *Config) externalTLS(v *values) {
	cert, key, names := v.text("tls-external-cert"), v.text("tls-external-key"), v.list("tls-external-server-names")
	switch {
	case cert == "" && key == "" && len(names) == 0:
		return
	case cert == "" && key == "":
		v.fail("tls-external-server-names", "there is no certificate for these names", "set --tls-external-cert and --tls-external-key")
	case key == "":
		v.fail("tls-external-cert", "it comes without a key", "set --tls-external-key")
	case cert == "":
		v.fail("tls-external-key", "it comes without a certificate", "set --tls-external-cert")
	case len(names) == 0:
		v.fail("tls-external-cert", "no server name would get this certificate", "set --tls-external-server-names")
	}
	c.TLS.ExternalCertificate, c.TLS.ExternalKey, c.TLS.ExternalNames = cert, key, names
}

// localDir is where the reference looks for a bundle of certificates and keys.
func (v *values) localDir() string {
	if dir := v.text("local-tls-dir"); dir != "" {
		return dir
	}
	dir, err := stateHome(v.env)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "openshell", "tls")
}

// localTLS uses the local bundle, if there is a whole one.
func (v *values) localTLS() {
	dir := v.localDir()
	if dir == "" {
		return
	}
	names := []string{"ca.crt", "server/tls.crt", "server/tls.key", "client/tls.crt", "client/tls.key"}
	switch v.bundle("partial local TLS state", dir, names) {
	case len(names):
		v.derive("local-tls-dir", dir, "default")
		v.derive("tls-cert", filepath.Join(dir, "server", "tls.crt"), "found in "+dir)
		v.derive("tls-key", filepath.Join(dir, "server", "tls.key"), "found in "+dir)
		v.derive("tls-client-ca", filepath.Join(dir, "ca.crt"), "found in "+dir)
	case 0:
		if v.set("local-tls-dir") {
			v.fail("local-tls-dir", "there is no bundle in "+dir, "make one, or pass --tls-cert and --tls-key")
		}
	}
}

// bundle counts files that belong together; some without the others are a problem.
func (v *values) bundle(what, dir string, names []string) int {
	files := make([]string, len(names))
	var missing []string
	for i, name := range names {
		files[i] = filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Stat(files[i]); err != nil {
			missing = append(missing, name)
		}
	}
	n := v.present("local-tls-dir", files)
	if n > 0 && n < len(names) {
		v.fail("local-tls-dir", fmt.Sprintf("%s in %s: missing %q", what, dir, missing), "complete it, remove it, or name the files with flags")
	}
	return n
}

func (c *Config) sandbox(v *values) {
	keys := []string{"gateway-jwt-signing-key", "gateway-jwt-public-key", "gateway-jwt-kid"}
	if !slices.ContainsFunc(append(keys, "sandbox-key-dir"), v.set) {
		if dir := v.localDir(); dir != "" {
			names := []string{"jwt/signing.pem", "jwt/public.pem", "jwt/kid"}
			if v.bundle("partial local sandbox JWT state", dir, names) == len(names) {
				for i, name := range keys {
					v.derive(name, filepath.Join(dir, filepath.FromSlash(names[i])), "found in "+dir)
				}
			}
		}
	}
	c.Sandbox = SandboxIdentity{
		KeyDir: v.text("sandbox-key-dir"), GatewayID: v.text("gateway-id"), SigningKey: v.text(keys[0]), PublicKey: v.text(keys[1]), KeyID: v.text(keys[2]),
		TTL:      time.Duration(v.number("sandbox-token-ttl-secs")) * time.Second,
		Recovery: time.Duration(v.number("sandbox-token-recovery-secs")) * time.Second,
	}
	for _, name := range keys[1:] {
		if v.text(name) != "" && c.Sandbox.SigningKey == "" {
			v.fail(name, "it belongs to a signing key, and none is named", "set gateway_jwt.signing_key_path (--gateway-jwt-signing-key)")
		}
	}
	if c.Sandbox.GatewayID == "" {
		v.fail("gateway-id", "must not be empty", "leave it out for \"openshell\"")
	}
	if c.Sandbox.TTL == 0 {
		v.warn("%s is 0: sandbox tokens never expire", v.said("sandbox-token-ttl-secs"))
	}
	c.secret(v)
}

func (c *Config) secret(v *values) {
	secret := v.text("ssh-handshake-secret")
	switch {
	case !v.flag("allow-shared-sandbox-secret"):
		if secret != "" {
			v.warn("--ssh-handshake-secret has no effect without --allow-shared-sandbox-secret: every sandbox has an identity of its own")
		}
	case len(secret) < 16:
		v.fail("allow-shared-sandbox-secret", "--allow-shared-sandbox-secret needs --ssh-handshake-secret with at least 16 characters", "set OPENSHELL_SSH_HANDSHAKE_SECRET")
	default:
		c.Auth.SharedSecret = secret
		v.warn("--allow-shared-sandbox-secret: supervisors that know only the shared secret are served; any sandbox that holds it can act for another, and whoever reaches the port can open the session of a sandbox whose id it knows")
	}
}

func (c *Config) kubernetes(v *values) {
	v.referencePods()
	k := Kubernetes{Enabled: v.flag("kubernetes-enabled")}
	if !k.Enabled {
		for _, s := range kubernetesSettings[1:] {
			if v.set(s.name) {
				v.warn("%s has no effect without --kubernetes-enabled", v.said(s.name))
			}
		}
		return
	}
	host, inside := v.env("KUBERNETES_SERVICE_HOST")
	if inside && host != "" {
		port, ok := v.env("KUBERNETES_SERVICE_PORT")
		if !ok || port == "" {
			port = "443"
		}
		const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
		v.derive("kubernetes-api-url", "https://"+net.JoinHostPort(host, port), "KUBERNETES_SERVICE_HOST")
		v.derive("kubernetes-ca", account+"ca.crt", "the pod's service account")
		v.derive("kubernetes-token", account+"token", "the pod's service account")
	}
	k.APIURL, k.CAPath, k.TokenPath = v.text("kubernetes-api-url"), v.text("kubernetes-ca"), v.text("kubernetes-token")
	k.Namespaces, k.NamespacePrefix = v.list("kubernetes-namespaces"), v.text("kubernetes-namespace-prefix")
	k.ServiceAccount, k.Audience = v.text("kubernetes-service-account"), v.text("kubernetes-audience")
	if k.APIURL == "" {
		v.fail("kubernetes-enabled", "the gateway does not run in a cluster and no API server is named", "set --kubernetes-api-url, --kubernetes-ca and --kubernetes-token")
	} else if k.TokenPath == "" {
		v.fail("kubernetes-token", "the gateway has no token for the API server", "set --kubernetes-token")
	}
	if len(k.Namespaces) == 0 && k.NamespacePrefix == "" {
		v.fail("kubernetes-enabled", "pods of no namespace would be accepted", "set --kubernetes-namespaces or --kubernetes-namespace-prefix")
	}
	for _, name := range []string{"kubernetes-service-account", "kubernetes-audience"} {
		if v.text(name) == "" {
			v.fail(name, "must not be empty", "leave it out for the default")
		}
	}
	c.Kubernetes = k
}
