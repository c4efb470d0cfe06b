package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

type kind uint8

const (
	text kind = iota
	number
	boolean
)

// setting is one value: its flag, its variable, its place in the file, and what it is good for.
type setting struct {
	flag, env, file string
	kind            kind
	preset          string
	usage           string
	// unused settings of a reference generation are accepted and reported.
	unused bool
}

// settings lists every flag of both 0.0.x generations and our own. The file column is the newer generation's TOML key.
var settings = []setting{
	{flag: "config", env: "OPENSHELL_GATEWAY_CONFIG", usage: "configuration file (TOML)"},
	{flag: "bind-address", env: "OPENSHELL_BIND_ADDRESS", preset: "127.0.0.1", usage: "IP address of all listeners"},
	{flag: "port", env: "OPENSHELL_SERVER_PORT", kind: number, preset: "17670", usage: "port for gRPC and HTTP"},
	{flag: "health-port", env: "OPENSHELL_HEALTH_PORT", kind: number, preset: "0", usage: "plaintext port for /healthz and /readyz, 0 = off"},
	{flag: "metrics-port", env: "OPENSHELL_METRICS_PORT", kind: number, preset: "0", usage: "plaintext port for /metrics, 0 = off"},
	{flag: "log-level", env: "OPENSHELL_LOG_LEVEL", file: "gateway.log_level", preset: "info", usage: "error, warn, info, debug"},
	{flag: "tls-cert", env: "OPENSHELL_TLS_CERT", file: "gateway.tls.cert_path", usage: "PEM certificate chain"},
	{flag: "tls-key", env: "OPENSHELL_TLS_KEY", file: "gateway.tls.key_path", usage: "PEM private key"},
	{flag: "tls-client-ca", env: "OPENSHELL_TLS_CLIENT_CA", file: "gateway.tls.client_ca_path", usage: "PEM authorities of client certificates"},
	{flag: "disable-tls", env: "OPENSHELL_DISABLE_TLS", file: "gateway.disable_tls", kind: boolean, usage: "serve plaintext, behind a proxy that ends TLS"},
	{flag: "disable-gateway-auth", env: "OPENSHELL_DISABLE_GATEWAY_AUTH", kind: boolean, usage: "make client certificates optional (older generation)"},
	{flag: "enable-mtls-auth", env: "OPENSHELL_ENABLE_MTLS_AUTH", file: "gateway.mtls_auth.enabled", kind: boolean, usage: "client certificates as user identity (not built yet)"},
	{flag: "db-url", env: "OPENSHELL_DB_URL", usage: "database, for example sqlite:/var/lib/openshell/openshell.db"},
	{flag: "drivers", env: "OPENSHELL_DRIVERS", file: "gateway.compute_drivers", usage: "name of the compute driver, for example external"},
	{flag: "compute-driver-socket", env: "OPENSHELL_COMPUTE_DRIVER_SOCKET", usage: "Unix socket of the compute driver"},
	{flag: "credentials-driver-socket", env: "OPENSHELL_CREDENTIALS_DRIVER_SOCKET", usage: "Unix socket of the credentials driver"},
	{flag: "oidc-issuer", env: "OPENSHELL_OIDC_ISSUER", file: "gateway.oidc.issuer", usage: "issuer of people's tokens"},
	{flag: "oidc-audience", env: "OPENSHELL_OIDC_AUDIENCE", file: "gateway.oidc.audience", preset: "openshell-cli", usage: "audience that tokens must name"},
	{flag: "oidc-jwks-ttl", env: "OPENSHELL_OIDC_JWKS_TTL", file: "gateway.oidc.jwks_ttl_secs", kind: number, preset: "3600", usage: "seconds between refreshes of the issuer's keys"},
	{flag: "oidc-roles-claim", env: "OPENSHELL_OIDC_ROLES_CLAIM", file: "gateway.oidc.roles_claim", preset: "realm_access.roles", usage: "path of the roles claim"},
	{flag: "oidc-admin-role", env: "OPENSHELL_OIDC_ADMIN_ROLE", file: "gateway.oidc.admin_role", preset: "openshell-admin", usage: "role of administrators"},
	{flag: "oidc-user-role", env: "OPENSHELL_OIDC_USER_ROLE", file: "gateway.oidc.user_role", preset: "openshell-user", usage: "role of users"},
	{flag: "oidc-scopes-claim", env: "OPENSHELL_OIDC_SCOPES_CLAIM", file: "gateway.oidc.scopes_claim", usage: "path of the scopes claim; empty = scopes are not checked"},
	{flag: "ssh-handshake-secret", env: "OPENSHELL_SSH_HANDSHAKE_SECRET", usage: "secret shared by all sandboxes of the older generation"},

	{flag: "oidc-discovery-url", env: "SALLYPORT_OIDC_DISCOVERY_URL", usage: "where to fetch the discovery document if not below the issuer"},
	{flag: "oidc-allow-missing-audience", env: "SALLYPORT_OIDC_ALLOW_MISSING_AUDIENCE", kind: boolean, usage: "accept tokens without audience (older development realm)"},
	{flag: "allow-unauthenticated-users", env: "SALLYPORT_ALLOW_UNAUTHENTICATED_USERS", file: "gateway.auth.allow_unauthenticated_users", kind: boolean, usage: "INSECURE: callers without a token are administrators; loopback only"},
	{flag: "allow-shared-sandbox-secret", env: "SALLYPORT_ALLOW_SHARED_SANDBOX_SECRET", kind: boolean, usage: "INSECURE: serve older supervisors that know only --ssh-handshake-secret"},
	{flag: "sandbox-key-dir", env: "SALLYPORT_SANDBOX_KEY_DIR", usage: "folder of the keys that sign sandbox tokens; default beside the database"},
	{flag: "gateway-id", env: "SALLYPORT_GATEWAY_ID", file: "gateway.gateway_jwt.gateway_id", preset: "openshell", usage: "name of this gateway in sandbox tokens"},
	{flag: "sandbox-token-ttl-secs", env: "SALLYPORT_SANDBOX_TOKEN_TTL_SECS", file: "gateway.gateway_jwt.ttl_secs", kind: number, preset: "86400", usage: "life of sandbox tokens in seconds, 0 = for ever"},
	{flag: "disable-fast-path", env: "SALLYPORT_DISABLE_FAST_PATH", kind: boolean, usage: "behind a proxy that mixes plain HTTP and gRPC on one HTTP/2 connection"},
	{flag: "shutdown-grace-secs", env: "SALLYPORT_SHUTDOWN_GRACE_SECS", kind: number, preset: "5", usage: "seconds that calls in flight may go on after a signal to stop"},

	{flag: "grpc-rate-limit-requests", env: "OPENSHELL_GRPC_RATE_LIMIT_REQUESTS", file: "gateway.grpc_rate_limit_requests", unused: true},
	{flag: "grpc-rate-limit-window-seconds", env: "OPENSHELL_GRPC_RATE_LIMIT_WINDOW_SECONDS", file: "gateway.grpc_rate_limit_window_seconds", unused: true},
	{flag: "server-san", env: "OPENSHELL_SERVER_SAN", file: "gateway.server_sans", unused: true},
	{flag: "enable-loopback-service-http", env: "OPENSHELL_ENABLE_LOOPBACK_SERVICE_HTTP", file: "gateway.enable_loopback_service_http", unused: true},
	{flag: "ssh-gateway-host", env: "OPENSHELL_SSH_GATEWAY_HOST", unused: true},
	{flag: "ssh-gateway-port", env: "OPENSHELL_SSH_GATEWAY_PORT", unused: true},
	{flag: "ssh-connect-path", env: "OPENSHELL_SSH_CONNECT_PATH", unused: true},
	{flag: "sandbox-ssh-port", env: "OPENSHELL_SANDBOX_SSH_PORT", unused: true},
	{flag: "ssh-handshake-skew-secs", env: "OPENSHELL_SSH_HANDSHAKE_SKEW_SECS", unused: true},
	{flag: "client-tls-secret-name", env: "OPENSHELL_CLIENT_TLS_SECRET_NAME", file: "gateway.client_tls_secret_name", unused: true},
	{flag: "grpc-endpoint", env: "OPENSHELL_GRPC_ENDPOINT", unused: true},
	{flag: "sandbox-namespace", env: "OPENSHELL_SANDBOX_NAMESPACE", file: "gateway.sandbox_namespace", unused: true},
	{flag: "sandbox-image", env: "OPENSHELL_SANDBOX_IMAGE", unused: true},
	{flag: "sandbox-image-pull-policy", env: "OPENSHELL_SANDBOX_IMAGE_PULL_POLICY", unused: true},
	{flag: "host-gateway-ip", env: "OPENSHELL_HOST_GATEWAY_IP", file: "gateway.host_gateway_ip", unused: true},
	{flag: "driver-dir", env: "OPENSHELL_DRIVER_DIR", unused: true},
	{flag: "health-bind-address", file: "gateway.health_bind_address"},
	{flag: "metrics-bind-address", file: "gateway.metrics_bind_address"},
}

// ErrHelp is returned when the caller asked for help; Usage has the text.
var ErrHelp = pflag.ErrHelp

// values holds what was found, with where it came from.
type values struct {
	value  map[string]string
	origin map[string]string
	file   document
}

// load reads all layers; the first one that has a value wins.
func load(args []string, env func(string) (string, bool)) (*values, error) {
	args, foreign := dropForeign(args)
	flags := flagSet()
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	v := &values{value: map[string]string{}, origin: map[string]string{}}
	for _, f := range foreign {
		v.file.unused = append(v.file.unused, f+" has no effect: it configures a driver that is a process of its own here")
	}
	v.layerFlags(flags)
	v.layerEnv(env)
	if err := v.layerFile(env); err != nil {
		return nil, err
	}
	var problems []error
	for _, s := range settings {
		if _, ok := v.value[s.flag]; !ok {
			v.value[s.flag] = s.preset
		}
		problems = append(problems, s.check(v.value[s.flag], v.origin[s.flag]))
	}
	return v, errors.Join(problems...)
}

// dropForeign takes out the flags by which the mvp generation configures its built-in drivers; all take a value.
func dropForeign(args []string) (kept, foreign []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		if !strings.HasPrefix(name, "--vm-") && !strings.HasPrefix(name, "--docker-") {
			kept = append(kept, args[i])
			continue
		}
		foreign = append(foreign, name)
		if !joined && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
	}
	return kept, foreign
}

func flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet("sallyport-gateway", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "driver" {
			name = "drivers"
		}
		return pflag.NormalizedName(name)
	})
	for _, s := range settings {
		if s.env == "" {
			continue
		}
		switch {
		case s.kind == boolean:
			flags.Bool(s.flag, s.preset == "true", s.help())
		case s.flag == "server-san":
			flags.StringSlice(s.flag, nil, s.help())
		default:
			flags.String(s.flag, s.preset, s.help())
		}
		if s.unused {
			_ = flags.MarkHidden(s.flag)
		}
	}
	return flags
}

func (s setting) help() string { return s.usage + " [" + s.env + "]" }

// Usage is the text of --help.
func Usage() string {
	return "Usage: sallyport-gateway [flags]\n\nEach flag has a variable, in brackets; a flag wins over its variable, that over the configuration file.\n\n" +
		flagSet().FlagUsagesWrapped(110)
}

func (v *values) put(s setting, value, origin string) {
	if _, ok := v.value[s.flag]; !ok {
		v.value[s.flag], v.origin[s.flag] = value, origin
	}
}

func (v *values) layerFlags(flags *pflag.FlagSet) {
	for _, s := range settings {
		if f := flags.Lookup(s.flag); s.env != "" && f.Changed {
			v.put(s, strings.Trim(f.Value.String(), "[]"), "--"+s.flag)
		}
	}
}

func (v *values) layerEnv(env func(string) (string, bool)) {
	for _, s := range settings {
		if s.env == "" {
			continue
		}
		if value, ok := env(s.env); ok {
			v.put(s, value, s.env)
		}
	}
}

// check refuses values of the wrong form; booleans are exactly true or false, as in the reference.
func (s setting) check(value, origin string) error {
	if origin == "" {
		return nil
	}
	switch s.kind {
	case boolean:
		if value != "true" && value != "false" {
			return fmt.Errorf("%s must be true or false, got %q", origin, value)
		}
	case number:
		if _, err := strconv.Atoi(value); err != nil {
			return fmt.Errorf("%s must be a number, got %q", origin, value)
		}
	}
	return nil
}

func (v *values) text(name string) string { return v.value[name] }
func (v *values) flag(name string) bool   { return v.value[name] == "true" }
func (v *values) set(name string) bool    { return v.origin[name] != "" }

// number returns a value that check has seen to be one.
func (v *values) number(name string) int {
	n, err := strconv.Atoi(v.value[name])
	if err != nil {
		return -1
	}
	return n
}

func (v *values) unused() []string {
	var out []string
	for _, s := range settings {
		if s.unused && v.set(s.flag) {
			out = append(out, v.origin[s.flag]+" has no effect in this version; see docs/status.md")
		}
	}
	return append(out, v.file.unused...)
}

// configPath is the explicit file, or the default one if it exists.
func (v *values) configPath(env func(string) (string, bool)) (path string, explicit bool) {
	if p := v.value["config"]; v.set("config") {
		return p, true
	}
	dir, ok := env("XDG_CONFIG_HOME")
	if !ok || dir == "" {
		home, _ := env("HOME")
		dir = filepath.Join(home, ".config")
	}
	p := filepath.Join(dir, "openshell", "gateway.toml")
	if _, err := os.Stat(p); err != nil {
		return "", false
	}
	return p, true
}
