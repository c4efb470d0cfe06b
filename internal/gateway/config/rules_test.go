package config_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
)

var people = []string{"--oidc-issuer", "https://i.test"}

func TestModes(t *testing.T) {
	t.Parallel()
	empty := []string{"--oidc-admin-role", "", "--oidc-user-role", ""}
	for name, tc := range map[string]struct {
		args    []string
		want    config.Authorization
		refused string
	}{
		"default":               {nil, config.Authorization{Mode: config.ModeRoles, AdminRole: "openshell-admin", UserRole: "openshell-user", PrivateSandboxes: true}, ""},
		"both roles empty":      {empty, config.Authorization{Mode: config.ModeAuthenticated}, ""},
		"authenticated by name": {[]string{"--authorization-mode", "authenticated"}, config.Authorization{Mode: config.ModeAuthenticated}, ""},
		"workspaces":            {[]string{"--authorization-mode", "workspaces"}, config.Authorization{Mode: config.ModeWorkspaces, AdminRole: "openshell-admin", UserRole: "openshell-user"}, ""},
		"private workspaces": {
			[]string{"--authorization-mode", "workspaces", "--sandbox-ownership", "private"},
			config.Authorization{Mode: config.ModeWorkspaces, AdminRole: "openshell-admin", UserRole: "openshell-user", PrivateSandboxes: true},
			"",
		},
		"shared roles": {
			[]string{"--sandbox-ownership", "shared"},
			config.Authorization{Mode: config.ModeRoles, AdminRole: "openshell-admin", UserRole: "openshell-user"},
			"",
		},
		"one role empty":           {[]string{"--oidc-user-role", ""}, config.Authorization{}, "OIDC RBAC misconfiguration"},
		"empty roles, mode roles":  {append([]string{"--authorization-mode", "roles"}, empty...), config.Authorization{}, "needs role names"},
		"empty roles, workspaces":  {append([]string{"--authorization-mode", "workspaces"}, empty...), config.Authorization{}, "needs role names"},
		"authenticated with roles": {[]string{"--authorization-mode", "authenticated", "--oidc-admin-role", "a"}, config.Authorization{}, "knows no roles"},
		"tenant without claim":     {[]string{"--tenant", "t"}, config.Authorization{}, "no claim names the tenants"},
		"claim without tenant":     {[]string{"--tenant-claim", "groups"}, config.Authorization{}, "binds nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := parse(t, nil, with(append(people, tc.args...)...)...)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("Parse = %v, want an error with %q", err, tc.refused)
				}
				return
			}
			if err != nil || c.Authorization != tc.want {
				t.Errorf("got %+v, %v; want %+v", c.Authorization, err, tc.want)
			}
		})
	}
}

func TestIssuersFromFlagsAndFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, `[openshell.gateway]
tenant = "team1"
tenant_claim = "groups"
[openshell.gateway.oidc]
issuer = "https://people.test/"
audiences = ["a", "b"]
role_map.Admins = ["openshell-admin"]
[[openshell.gateway.oidc.issuers]]
name = "ci"
issuer = "https://ci.test"
audiences = ["c"]
algorithms = ["ES256", "EdDSA"]
jwks_ttl_secs = 60
required = [{ claim = "repository", values = ["x/y"] }]
default_roles = ["openshell-user"]
tenant = "team1"
optional = true
`)
	c, err := parse(t, nil, with("--config", file)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Issuers) != 2 {
		t.Fatalf("issuers = %+v", c.Issuers)
	}
	people, ci := c.Issuers[0], c.Issuers[1]
	if people.Name != config.DefaultIssuer || !slices.Equal(people.Audiences, []string{"a", "b"}) || people.KeysTTL != time.Hour || len(people.RoleMap["Admins"]) != 1 {
		t.Errorf("the default issuer is %+v", people)
	}
	if ci.Name != "ci" || ci.KeysTTL != time.Minute || !slices.Equal(ci.Algorithms, []string{"ES256", "EdDSA"}) || !ci.Optional || ci.UsernameClaim != "preferred_username" {
		t.Errorf("the listed issuer is %+v", ci)
	}
	for _, i := range c.Issuers {
		last := i.Required[len(i.Required)-1]
		if i.Tenant != "team1" || last.Claim != "groups" || !slices.Equal(last.Values, []string{"team1"}) {
			t.Errorf("issuer %s is not bound to the tenant: %+v", i.Name, i)
		}
	}
	// A flag replaces the audiences of the file.
	if c, err = parse(t, nil, with("--config", file, "--oidc-audience", "flag")...); err != nil || !slices.Equal(c.Issuers[0].Audiences, []string{"flag"}) {
		t.Errorf("audiences with a flag: %v, %v", c, err)
	}
}

func TestIssuerRefusals(t *testing.T) {
	t.Parallel()
	const ci = "[[openshell.gateway.oidc.issuers]]\nname = 'ci'\nissuer = 'https://ci.test'\naudiences = ['c']\n"
	for name, tc := range map[string]struct{ text, want string }{
		"two of a name":      {ci + strings.Replace(ci, "ci.test", "other.test", 1), ":6:1: openshell.gateway.oidc.issuers[1].name: two issuers are named"},
		"two of an issuer":   {ci + strings.Replace(strings.Replace(ci, "'ci'", "'x'", 1), "ci.test", "ci.test/", 1), ":7:1: openshell.gateway.oidc.issuers[1].issuer: two entries have the issuer"},
		"named default":      {"[openshell.gateway.oidc]\nissuer = 'https://i.test'\n" + strings.Replace(ci, "'ci'", "'default'", 1), "two issuers are named \"default\""},
		"no audience":        {strings.Replace(ci, "audiences = ['c']", "", 1), "an issuer needs audiences"},
		"audience":           {strings.Replace(ci, "audiences = ['c']", "audience = 'c'", 1), `write audiences = ["..."]`},
		"misspelt":           {ci + "algorithm = ['RS256']\n", `did you mean "algorithms"?`},
		"orphan":             {"[openshell.gateway.oidc]\nstrict_roles = true\n", "which has none"},
		"not a list":         {"[openshell.gateway.oidc.issuers]\nname = 'x'\n", "must be a list of tables"},
		"strict and nothing": {ci + "strict_roles = true\n", "drops every role"},
		"other tenant":       {"[openshell.gateway]\ntenant = 't'\ntenant_claim = 'g'\n" + ci + "tenant = 'u'\n", `:2:1: openshell.gateway.tenant: issuer ci is of the tenant "u"`},
		"too many":           {strings.Repeat(ci, 33), "33 issuers are more than 32"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "gateway.toml")
			write(t, file, tc.text)
			if _, err := parse(t, nil, with("--config", file)...); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestReferenceRateLimit(t *testing.T) {
	t.Parallel()
	preset := config.Rate{PerSecond: 2000, Burst: 4000}
	for name, tc := range map[string]struct {
		args    []string
		want    config.Rate
		refused string
	}{
		"none":           {nil, preset, ""},
		"both":           {[]string{"--grpc-rate-limit-requests", "30", "--grpc-rate-limit-window-seconds", "60"}, config.Rate{PerSecond: 0.5, Burst: 30}, ""},
		"zero requests":  {[]string{"--grpc-rate-limit-requests", "0", "--grpc-rate-limit-window-seconds", "60"}, preset, ""},
		"zero window":    {[]string{"--grpc-rate-limit-requests", "30", "--grpc-rate-limit-window-seconds", "0"}, preset, ""},
		"zero alone":     {[]string{"--grpc-rate-limit-requests", "0"}, preset, ""},
		"requests alone": {[]string{"--grpc-rate-limit-requests", "30"}, preset, "needs --grpc-rate-limit-window-seconds"},
		"window alone":   {[]string{"--grpc-rate-limit-window-seconds", "60"}, preset, "needs --grpc-rate-limit-requests"},
		"and our own":    {[]string{"--grpc-rate-limit-requests", "30", "--grpc-rate-limit-window-seconds", "60", "--principal-burst", "1"}, preset, "remove one of them"},
		"our own off":    {[]string{"--principal-requests-per-second", "0"}, config.Rate{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := parse(t, nil, with(tc.args...)...)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("Parse = %v, want an error with %q", err, tc.refused)
				}
				return
			}
			if err != nil || c.Limits.Principal != tc.want {
				t.Errorf("got %+v, %v; want %+v", c, err, tc.want)
			}
		})
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	tls := append([]string{"--tls-cert", "/c", "--tls-key", "/k"}, base[1:]...)
	ca := append([]string{"--tls-client-ca", "/a"}, tls...)
	for name, tc := range map[string]struct {
		args    []string
		enabled bool
		demand  bool
		refused string
	}{
		"never on by itself":        {ca, false, true, ""},
		"on":                        {append(ca, "--enable-mtls-auth"), true, true, ""},
		"value as a word":           {append(ca, "--enable-mtls-auth", "true"), true, true, ""},
		"off as a word":             {append(ca, "--enable-mtls-auth", "false"), false, true, ""},
		"without authority":         {append(tls, "--enable-mtls-auth"), false, false, "no authority of client certificates"},
		"with kubernetes":           {append(ca, "--enable-mtls-auth", "--drivers", "kubernetes"), false, false, "multiple compute drivers"},
		"issuer makes it optional":  {append(ca, people...), false, false, ""},
		"demanded beside an issuer": {append(append(ca, people...), "--tls-require-client-auth"), false, true, ""},
		"not demanded":              {append(ca, "--tls-require-client-auth=false"), false, false, ""},
		"older flag":                {append(ca, "--disable-gateway-auth"), false, false, ""},
		"contradiction":             {append(ca, "--disable-gateway-auth", "--tls-require-client-auth"), false, false, "says the opposite"},
		"demand without authority":  {append(tls, "--tls-require-client-auth"), false, false, "no authority of client certificates"},
		"demand without TLS":        {with("--tls-require-client-auth"), false, false, "nobody can be asked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := parse(t, nil, slices.Clone(tc.args)...)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("Parse = %v, want an error with %q", err, tc.refused)
				}
				return
			}
			if err != nil || c.MTLS.Enabled != tc.enabled || c.TLS.RequireClient != tc.demand {
				t.Errorf("got %+v %+v, %v", c.MTLS, c.TLS, err)
			}
		})
	}
	kubernetes := []string{"--tls-client-ca", "/a", "--tls-cert", "/c", "--tls-key", "/k", "--drivers", "kubernetes", "--compute-driver-socket", "/s", "--enable-mtls-auth"}
	if _, err := parse(t, nil, kubernetes...); err == nil || !strings.Contains(err.Error(), "refused with the driver kubernetes") {
		t.Errorf("with the driver kubernetes: %v", err)
	}
}

func TestExternalCertificate(t *testing.T) {
	t.Parallel()
	tls := append([]string{"--tls-cert", "/c", "--tls-key", "/k"}, base[1:]...)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"key missing":         {[]string{"--tls-external-cert", "/x"}, "comes without a key"},
		"certificate missing": {[]string{"--tls-external-key", "/x"}, "comes without a certificate"},
		"names missing":       {[]string{"--tls-external-cert", "/x", "--tls-external-key", "/x"}, "no server name"},
		"names alone":         {[]string{"--tls-external-server-names", "a.test"}, "no certificate for these names"},
		"whole":               {[]string{"--tls-external-cert", "/x", "--tls-external-key", "/y", "--tls-external-server-names", "a.test,*.b.test"}, ""},
	} {
		c, err := parse(t, nil, append(slices.Clone(tls), tc.args...)...)
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || c.TLS.ExternalCertificate != "/x" || c.TLS.ExternalKey != "/y" || len(c.TLS.ExternalNames) != 2 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestLocalBundle(t *testing.T) {
	t.Parallel()
	all := []string{"ca.crt", "server/tls.crt", "server/tls.key", "client/tls.crt", "client/tls.key"}
	jwt := []string{"jwt/signing.pem", "jwt/public.pem", "jwt/kid"}
	bundle := func(files ...string) string {
		dir := t.TempDir()
		for _, f := range files {
			touch(t, filepath.Join(dir, f))
		}
		return dir
	}
	noTLS := base[1:]
	dir := bundle(append(all, jwt...)...)
	c, err := parse(t, map[string]string{"OPENSHELL_LOCAL_TLS_DIR": dir}, noTLS...)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS.Certificate != filepath.Join(dir, "server", "tls.crt") || c.TLS.ClientCA != filepath.Join(dir, "ca.crt") || !c.TLS.RequireClient || c.MTLS.Enabled {
		t.Errorf("TLS = %+v", c.TLS)
	}
	if c.Sandbox.SigningKey != filepath.Join(dir, "jwt", "signing.pem") || c.Sandbox.KeyID != filepath.Join(dir, "jwt", "kid") || c.Sandbox.TTL != 24*time.Hour {
		t.Errorf("sandbox identity = %+v", c.Sandbox)
	}
	// Said keys win over found ones, and so does a certificate.
	args := append([]string{"--tls-cert", "/c", "--tls-key", "/k", "--sandbox-key-dir", "/keys"}, noTLS...)
	if c, err = parse(t, map[string]string{"OPENSHELL_LOCAL_TLS_DIR": dir}, args...); err != nil || c.TLS.ClientCA != "" || c.Sandbox.SigningKey != "" {
		t.Errorf("with flags: %+v, %v", c, err)
	}
	for name, tc := range map[string]struct{ dir, want string }{
		"part of TLS":  {bundle(all[:3]...), "partial local TLS state"},
		"part of keys": {bundle(append(all, jwt[0])...), "partial local sandbox JWT state"},
		"nothing":      {bundle(), "there is no bundle"},
	} {
		if _, err := parse(t, map[string]string{"OPENSHELL_LOCAL_TLS_DIR": tc.dir}, noTLS...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	// The default folder is below the state directory.
	state := t.TempDir()
	for _, f := range all {
		touch(t, filepath.Join(state, "openshell", "tls", f))
	}
	if c, err = parse(t, map[string]string{"XDG_STATE_HOME": state}, noTLS...); err != nil || c.TLS.Certificate == "" {
		t.Errorf("default folder: %+v, %v", c, err)
	}
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	inside := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
	on := []string{"--kubernetes-enabled", "--kubernetes-namespace-prefix", "openshell-"}
	c, err := parse(t, inside, with(on...)...)
	if err != nil {
		t.Fatal(err)
	}
	k := c.Kubernetes
	if k.APIURL != "https://[fd00::1]:6443" || !strings.HasSuffix(k.TokenPath, "/serviceaccount/token") || k.Audience != "openshell-gateway" || k.ServiceAccount != "default" {
		t.Errorf("in a cluster: %+v", k)
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		want string
	}{
		"outside":      {nil, on, "does not run in a cluster"},
		"no namespace": {inside, on[:1], "pods of no namespace"},
		"no token":     {nil, append(on, "--kubernetes-api-url", "https://k.test"), "no token"},
	} {
		if _, err := parse(t, tc.env, with(tc.args...)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if c, err = parse(t, nil, with("--kubernetes-namespaces", "x")...); err != nil || c.Kubernetes.Enabled || !containsLine(c.Warnings, "has no effect without --kubernetes-enabled") {
		t.Errorf("switched off: %+v, %v", c, err)
	}
}

func TestAuditNeedsAFolder(t *testing.T) {
	t.Parallel()
	disk := append(base[:5:5], "--db-url", "sqlite:/data/x.db")
	c, err := parse(t, nil, disk...)
	if err != nil || !c.Audit.Enabled || c.Audit.Dir != "/data/audit" || c.Audit.MaxBytes != 64<<20 || c.Audit.KeepFiles != 64 {
		t.Errorf("beside the database: %+v, %v", c.Audit, err)
	}
	if c, err = parse(t, nil, base...); err != nil || c.Audit.Enabled || !containsLine(c.Warnings, "the audit is off") {
		t.Errorf("in memory: %+v, %v", c.Audit, err)
	}
	if c, err = parse(t, nil, with("--audit-dir", "/a")...); err != nil || !c.Audit.Enabled || c.Audit.Dir != "/a" {
		t.Errorf("with a folder: %+v, %v", c.Audit, err)
	}
	if _, err = parse(t, nil, with("--audit-enabled=true")...); err == nil || !strings.Contains(err.Error(), "no folder for the audit") {
		t.Errorf("demanded without a folder: %v", err)
	}
	if c, err = parse(t, nil, append(disk, "--audit-enabled=false")...); err != nil || c.Audit.Enabled {
		t.Errorf("switched off: %+v, %v", c.Audit, err)
	}
}
