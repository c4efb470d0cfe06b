package config

var listenSettings = []setting{
	{
		name: "config", env: "OPENSHELL_GATEWAY_CONFIG", topic: topicListen, usage: "configuration file (TOML)",
		shown: "`$XDG_CONFIG_HOME/openshell/gateway.toml`", more: "A named file that is missing is an error; the default one need not exist.",
	},
	{
		name: "bind-address", env: "OPENSHELL_BIND_ADDRESS", file: "gateway.bind_address", topic: topicListen, preset: "127.0.0.1", form: ipAddress,
		usage: "IP address of all listeners, not a name", more: "The file's value is ip:port and sets the port too.",
	},
	{
		name: "port", env: "OPENSHELL_SERVER_PORT", topic: topicListen, kind: number, preset: "17670", most: 65535,
		usage: "port for gRPC, gRPC-Web, Connect and plain HTTP", more: "In the file: the port of `gateway.bind_address`.",
	},
	{
		name: "health-port", env: "OPENSHELL_HEALTH_PORT", topic: topicListen, kind: number, preset: "0", most: 65535,
		usage: "plaintext port for /healthz, /readyz and /health, 0 = off",
	},
	{
		name: "metrics-port", env: "OPENSHELL_METRICS_PORT", topic: topicListen, kind: number, preset: "0", most: 65535,
		usage: "plaintext port for /metrics, 0 = off",
	},
	{
		name: "health-bind-address", file: "gateway.health_bind_address", topic: topicListen, kind: address,
		usage: "ip:port for health", more: "Counts only when `--health-port` and its variable are not given.",
	},
	{
		name: "metrics-bind-address", file: "gateway.metrics_bind_address", topic: topicListen, kind: address,
		usage: "ip:port for metrics", more: "Counts only when `--metrics-port` and its variable are not given.",
	},
	{
		name: "ssh-gateway-host", env: "OPENSHELL_SSH_GATEWAY_HOST", topic: topicListen, shown: "the address that the caller used",
		usage: "name under which SSH clients are told to reach the gateway",
	},
	{
		name: "ssh-gateway-port", env: "OPENSHELL_SSH_GATEWAY_PORT", topic: topicListen, kind: number, preset: "0", most: 65535,
		usage: "port that SSH clients are told, 0 = the gateway's own",
	},
	{
		name: "ssh-connect-path", env: "OPENSHELL_SSH_CONNECT_PATH", topic: topicListen,
		usage: "path that SSH clients are told, where a proxy has another than /connect/ssh", more: "It does not change what the gateway serves.",
	},
	{
		name: "ssh-session-ttl-secs", env: "SALLYPORT_SSH_SESSION_TTL_SECS", file: "gateway.ssh_session_ttl_secs", topic: topicListen, kind: number, preset: "86400", most: 10 * 365 * 86400,
		usage: "life of SSH sessions in seconds, 0 = for ever", more: "They end with the user's access, too.",
	},
	{
		name: "public-addresses", env: "SALLYPORT_PUBLIC_ADDRESSES", file: "gateway.public_addresses", topic: topicListen, kind: list,
		usage: "IP addresses that serve users although a compute driver asks for them",
		more:  "A gateway that listens on all addresses otherwise serves sandboxes alone at those that its driver asks for.",
	},
	{
		name: "disable-fast-path", env: "SALLYPORT_DISABLE_FAST_PATH", file: "gateway.disable_fast_path", topic: topicListen, kind: boolean, preset: "false",
		usage: "behind a proxy that mixes plain HTTP and gRPC on one HTTP/2 connection",
	},
	{
		name: "shutdown-grace-secs", env: "SALLYPORT_SHUTDOWN_GRACE_SECS", file: "gateway.shutdown_grace_secs", topic: topicListen, kind: number, preset: "5", most: 3600,
		usage: "seconds that calls in flight may go on after a signal to stop", more: "Sessions of supervisors are ended at three quarters of it.",
	},
	{
		name: "log-level", env: "OPENSHELL_LOG_LEVEL", file: "gateway.log_level", topic: topicListen, kind: choice, live: true, preset: "info",
		choices: []string{"error", "warn", "info", "debug", "trace"},
		usage:   "error, warn, info or debug", more: "`trace` means `debug`.",
	},
	{
		name: "log-format", env: "SALLYPORT_LOG_FORMAT", file: "gateway.log_format", topic: topicListen, kind: choice, preset: "json",
		choices: []string{"json", "text"}, usage: "json or text", more: "Logs are lines on standard error.",
	},
}

var tlsSettings = []setting{
	{
		name: "tls-cert", env: "OPENSHELL_TLS_CERT", file: "gateway.tls.cert_path", topic: topicTLS, live: true,
		usage: "PEM certificate chain", more: "Required unless TLS is off or a local bundle is found, see `OPENSHELL_LOCAL_TLS_DIR`.",
	},
	{name: "tls-key", env: "OPENSHELL_TLS_KEY", file: "gateway.tls.key_path", topic: topicTLS, live: true, usage: "PEM private key"},
	{
		name: "tls-client-ca", env: "OPENSHELL_TLS_CLIENT_CA", file: "gateway.tls.client_ca_path", topic: topicTLS, live: true,
		usage: "PEM authorities of client certificates",
		more:  "Without an issuer every connection must then present a certificate; with one it is optional, and verified if presented. A certificate of another authority is refused in any case.",
	},
	{
		name: "tls-require-client-auth", env: "SALLYPORT_TLS_REQUIRE_CLIENT_AUTH", file: "gateway.tls.require_client_auth", topic: topicTLS, kind: boolean, live: true,
		shown: "see `--tls-client-ca`", usage: "demand a client certificate of every connection, or of none",
		more: "Replaces the rule of `--tls-client-ca`. The newer reference reads this key and ignores it; here it holds.",
	},
	{
		name: "disable-gateway-auth", env: "OPENSHELL_DISABLE_GATEWAY_AUTH", topic: topicTLS, kind: boolean, preset: "false", live: true,
		usage: "make client certificates optional (older generation)", more: "It opens no method. The same as `--tls-require-client-auth=false`.",
	},
	{
		name: "disable-tls", env: "OPENSHELL_DISABLE_TLS", file: "gateway.disable_tls", topic: topicTLS, kind: boolean, preset: "false",
		usage: "serve plaintext, behind a proxy that ends TLS",
		more:  "Certificate and key are then ignored, with a warning. A client authority beside it is an error: to ignore it would open what it closes.",
	},
	{
		name: "tls-external-cert", env: "SALLYPORT_TLS_EXTERNAL_CERT", file: "gateway.tls.external_cert_path", topic: topicTLS, live: true,
		usage: "PEM certificate chain for the external names",
	},
	{
		name: "tls-external-key", env: "SALLYPORT_TLS_EXTERNAL_KEY", file: "gateway.tls.external_key_path", topic: topicTLS, live: true,
		usage: "PEM private key of it",
	},
	{
		name: "tls-external-server-names", env: "SALLYPORT_TLS_EXTERNAL_SERVER_NAMES", file: "gateway.tls.external_server_names", topic: topicTLS, kind: list, form: serverName, live: true,
		usage: "server names (SNI) that get the external certificate", more: "Each exact, or `*.` and a domain, where the star stands for one label. Every other name, and none, gets the first certificate.",
	},
	{
		name: "local-tls-dir", env: "OPENSHELL_LOCAL_TLS_DIR", topic: topicTLS, noFlag: true, shown: "`$XDG_STATE_HOME/openshell/tls`",
		usage: "folder of a bundle that is used when no TLS option is given",
		more:  "All of `ca.crt`, `server/tls.crt`, `server/tls.key`, `client/tls.crt`, `client/tls.key`, or none. `jwt/signing.pem`, `jwt/public.pem`, `jwt/kid` in it, all or none, sign sandbox tokens when nothing else is said about them.",
	},
}

var storeSettings = []setting{
	{
		name: "db-url", env: "OPENSHELL_DB_URL", topic: topicStore, shown: "`sqlite:$XDG_STATE_HOME/openshell/gateway/openshell.db`",
		usage: "database, for example sqlite:/var/lib/openshell/openshell.db or postgres://sallyport@db.test/sallyport",
		more: "`sqlite:PATH`, `sqlite://PATH` with `?mode=rwc` (default), `rw` or `memory`; `sqlite::memory:`; the folder is made with mode 0700. " +
			"Or `postgres://` or `postgresql://`, see [postgresql.md](postgresql.md). Refused in the file.",
	},
	{
		name: "db-password-file", env: "SALLYPORT_DB_PASSWORD_FILE", file: "gateway.database.password_file", topic: topicStore,
		usage: "file with the password for PostgreSQL", more: "It is read for each new connection, so that the password can change. `PGPASSWORD` and `PGPASSFILE` are read too, and the URL may have one.",
	},
	{
		name: "db-lease-wait-secs", env: "SALLYPORT_DB_LEASE_WAIT_SECS", file: "gateway.database.lease_wait_secs", topic: topicStore, kind: number, preset: "60", most: 3600,
		usage: "seconds to wait at the start while another gateway owns the PostgreSQL database", more: "The one to be replaced gives it up when it ends.",
	},
	{
		name: "state-dir", env: "SALLYPORT_STATE_DIR", file: "gateway.state_dir", topic: topicStore, shown: "the SQLite file's folder; with PostgreSQL `$XDG_STATE_HOME/openshell/gateway`",
		usage: "folder of what is not in the database: keys and the audit log",
	},
	{
		name: "drivers", env: "OPENSHELL_DRIVERS", file: "gateway.compute_drivers", topic: topicStore, kind: list,
		usage: "name of the compute driver, for example external", more: "Exactly one. Required. `--driver` is the same.",
	},
	{
		name: "compute-driver-socket", env: "OPENSHELL_COMPUTE_DRIVER_SOCKET", topic: topicStore,
		usage: "Unix socket of the compute driver", more: "A leading `@` means the abstract namespace. In the file: `drivers.NAME.socket_path`.",
	},
	{
		name: "credentials-driver-socket", env: "OPENSHELL_CREDENTIALS_DRIVER_SOCKET", file: "gateway.credentials_driver_socket", topic: topicStore,
		usage: "Unix socket of the credentials driver", more: "Without it, a provider that names a driver credential is refused.",
	},
}

var edgeSettings = []setting{
	{
		name: "edge-auth", env: "SALLYPORT_EDGE_AUTH", file: "gateway.edge_auth.enabled", topic: topicEdge, kind: boolean, preset: "false",
		usage: "serve /auth/connect, which hands an edge proxy's cookie to the client",
	},
	{
		name: "websocket-tunnel", env: "SALLYPORT_WEBSOCKET_TUNNEL", file: "gateway.websocket_tunnel.enabled", topic: topicEdge, kind: boolean, preset: "false",
		usage: "serve the WebSocket tunnel", more: "Calls inside it are authenticated as any other.",
	},
	{
		name: "allowed-origins", env: "SALLYPORT_ALLOWED_ORIGINS", file: "gateway.allowed_origins", topic: topicEdge, kind: list, form: originURL,
		usage: "origins of pages that may open the tunnel, as scheme://host[:port]",
	},
	{
		name: "allowed-hosts", env: "SALLYPORT_ALLOWED_HOSTS", file: "gateway.allowed_hosts", topic: topicEdge, kind: list, form: hostName,
		usage: "names (host or host:port) under which pages and the tunnel answer", more: "Names of the loopback and the bound address count without being listed.",
	},
}

// unusedSettings are read so that a reference's command line and file go on working; each that is set is reported.
var unusedSettings = []setting{
	{name: "sandbox-ssh-port", env: "OPENSHELL_SANDBOX_SSH_PORT", topic: topicUnused, unused: true, usage: "the supervisor's SSH server is a Unix socket"},
	{name: "ssh-handshake-skew-secs", env: "OPENSHELL_SSH_HANDSHAKE_SKEW_SECS", topic: topicUnused, unused: true, usage: "there is no handshake by clock"},
	{name: "client-tls-secret-name", env: "OPENSHELL_CLIENT_TLS_SECRET_NAME", file: "gateway.client_tls_secret_name", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "grpc-endpoint", env: "OPENSHELL_GRPC_ENDPOINT", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "sandbox-namespace", env: "OPENSHELL_SANDBOX_NAMESPACE", file: "gateway.sandbox_namespace", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "sandbox-image", env: "OPENSHELL_SANDBOX_IMAGE", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "sandbox-image-pull-policy", env: "OPENSHELL_SANDBOX_IMAGE_PULL_POLICY", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "host-gateway-ip", env: "OPENSHELL_HOST_GATEWAY_IP", file: "gateway.host_gateway_ip", topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "driver-dir", env: "OPENSHELL_DRIVER_DIR", topic: topicUnused, unused: true, usage: "drivers are started beside the gateway"},
	{name: "supervisor-image", env: "OPENSHELL_SUPERVISOR_IMAGE", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "supervisor-image-pull-policy", env: "OPENSHELL_SUPERVISOR_IMAGE_PULL_POLICY", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "podman-socket", env: "OPENSHELL_PODMAN_SOCKET", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "podman-tls-ca", env: "OPENSHELL_PODMAN_TLS_CA", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "podman-tls-cert", env: "OPENSHELL_PODMAN_TLS_CERT", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "podman-tls-key", env: "OPENSHELL_PODMAN_TLS_KEY", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "network-name", env: "OPENSHELL_NETWORK_NAME", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
	{name: "stop-timeout", env: "OPENSHELL_STOP_TIMEOUT", noFlag: true, topic: topicUnused, unused: true, usage: "a setting of the driver"},
}

// unusedKeys are keys and tables of the reference's file that have neither flag nor variable and no effect.
var unusedKeys = []string{
	"credential_drivers", "drivers", "gateway.credential_drivers", "gateway.default_credential_driver",
	"gateway.default_image", "gateway.enable_user_namespaces", "gateway.guest_tls_ca", "gateway.guest_tls_cert",
	"gateway.guest_tls_key", "gateway.interceptors", "gateway.policy_validation_failure_mode",
	"gateway.provider_profile_sources", "gateway.sa_token_ttl_secs", "gateway.service_account_name",
	"gateway.supervisor_image", "supervisor",
}
