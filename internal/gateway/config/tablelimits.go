package config

const mebibyte = 1 << 20

var sandboxSettings = []setting{
	{
		name: "sandbox-key-dir", env: "SALLYPORT_SANDBOX_KEY_DIR", file: "gateway.gateway_jwt.key_dir", topic: topicSandbox, shown: "`sandbox-keys` beside the database",
		usage: "folder of the keys that sign sandbox tokens",
		more:  "Ed25519 keys (`*.pem`, PKCS#8), closed to other users. The last in the order of names signs, all verify. A first key is made if there is none. With a database in memory and no folder, the key lives as long as the process.",
	},
	{
		name: "gateway-id", env: "SALLYPORT_GATEWAY_ID", file: "gateway.gateway_jwt.gateway_id", topic: topicSandbox, preset: "openshell",
		usage: "name of this gateway in sandbox tokens", more: "A token is good only at a gateway with this name and this key.",
	},
	{
		name: "sandbox-token-ttl-secs", env: "SALLYPORT_SANDBOX_TOKEN_TTL_SECS", file: "gateway.gateway_jwt.ttl_secs", topic: topicSandbox, kind: number, preset: "86400", most: 10 * 365 * 86400,
		usage: "life of sandbox tokens in seconds, 0 = for ever", more: "Supervisors renew theirs at four fifths.",
	},
	{
		name: "sandbox-token-recovery-secs", env: "SALLYPORT_SANDBOX_TOKEN_RECOVERY_SECS", file: "gateway.gateway_jwt.recovery_secs", topic: topicSandbox, kind: number, preset: "2592000", most: 10 * 365 * 86400,
		usage: "seconds after its end in which a sandbox token still opens its own renewal", more: "So that sandboxes get back in after the gateway was away for longer. 0 = never.",
	},
	{
		name: "gateway-jwt-signing-key", env: "SALLYPORT_GATEWAY_JWT_SIGNING_KEY", file: "gateway.gateway_jwt.signing_key_path", topic: topicSandbox,
		usage: "PEM file of the key that signs sandbox tokens, as the newer reference has it", more: "Keys of `--sandbox-key-dir` then only verify.",
	},
	{
		name: "gateway-jwt-public-key", env: "SALLYPORT_GATEWAY_JWT_PUBLIC_KEY", file: "gateway.gateway_jwt.public_key_path", topic: topicSandbox,
		usage: "PEM file of its public half",
	},
	{
		name: "gateway-jwt-kid", env: "SALLYPORT_GATEWAY_JWT_KID", file: "gateway.gateway_jwt.kid_path", topic: topicSandbox,
		usage: "file with its key id",
	},
	{
		name: "allow-shared-sandbox-secret", env: "SALLYPORT_ALLOW_SHARED_SANDBOX_SECRET", file: "gateway.auth.allow_shared_sandbox_secret", topic: topicSandbox, kind: boolean, preset: "false",
		usage: "INSECURE: serve older supervisors that know only --ssh-handshake-secret",
	},
	{
		name: "ssh-handshake-secret", env: "OPENSHELL_SSH_HANDSHAKE_SECRET", topic: topicSandbox, secret: true,
		usage: "secret shared by all sandboxes of the older generation", more: "At least 16 characters; without effect unless the flag above is set. Not read from the file.",
	},
}

var kubernetesSettings = []setting{
	{
		name: "kubernetes-enabled", env: "SALLYPORT_KUBERNETES_ENABLED", file: "gateway.kubernetes.enabled", topic: topicKubernetes, kind: boolean, preset: "false",
		usage: "give pods of sandboxes their token for a service account token", more: "The gateway needs leave to create tokenreviews and to get pods and sandboxes.",
	},
	{
		name: "kubernetes-api-url", env: "SALLYPORT_KUBERNETES_API_URL", file: "gateway.kubernetes.api_url", topic: topicKubernetes, form: secureURL,
		shown: "the cluster's", usage: "URL of the API server",
	},
	{
		name: "kubernetes-ca", env: "SALLYPORT_KUBERNETES_CA", file: "gateway.kubernetes.ca_path", topic: topicKubernetes,
		shown: "the cluster's", usage: "PEM authorities of the API server",
	},
	{
		name: "kubernetes-token", env: "SALLYPORT_KUBERNETES_TOKEN", file: "gateway.kubernetes.token_path", topic: topicKubernetes,
		shown: "the pod's", usage: "file of the gateway's own token",
	},
	{
		name: "kubernetes-namespaces", env: "SALLYPORT_KUBERNETES_NAMESPACES", file: "gateway.kubernetes.namespaces", topic: topicKubernetes, kind: list,
		usage: "namespaces of the pods", more: "This or the prefix is required.",
	},
	{
		name: "kubernetes-namespace-prefix", env: "SALLYPORT_KUBERNETES_NAMESPACE_PREFIX", file: "gateway.kubernetes.namespace_prefix", topic: topicKubernetes,
		usage: "what the names of their namespaces begin with",
	},
	{
		name: "kubernetes-service-account", env: "SALLYPORT_KUBERNETES_SERVICE_ACCOUNT", file: "gateway.kubernetes.service_account", topic: topicKubernetes, preset: "default",
		usage: "service account of the pods",
	},
	{
		name: "kubernetes-audience", env: "SALLYPORT_KUBERNETES_AUDIENCE", file: "gateway.kubernetes.audience", topic: topicKubernetes, preset: "openshell-gateway",
		usage: "audience of their tokens",
	},
}

var limitSettings = []setting{
	{
		name: "max-connections", env: "SALLYPORT_MAX_CONNECTIONS", file: "gateway.limits.max_connections", topic: topicLimits, kind: number, preset: "16384", least: 1, most: 1 << 20,
		usage: "open connections",
	},
	{
		name: "max-connections-per-address", env: "SALLYPORT_MAX_CONNECTIONS_PER_ADDRESS", file: "gateway.limits.max_connections_per_address", topic: topicLimits, kind: number, preset: "4096", least: 1, most: 1 << 20,
		usage: "open connections of one address", more: "All sandboxes behind one address count together. An IPv6 address stands for its /64.",
	},
	{
		name: "limit-loopback", env: "SALLYPORT_LIMIT_LOOPBACK", file: "gateway.limits.limit_loopback", topic: topicLimits, kind: boolean, preset: "false",
		usage: "hold loopback addresses to that limit, too", more: "For a gateway behind a proxy on the same machine.",
	},
	{
		name: "max-streams", env: "SALLYPORT_MAX_STREAMS", file: "gateway.limits.max_streams", topic: topicLimits, kind: number, preset: "256", least: 1, most: 65535,
		usage: "concurrent calls of one connection",
	},
	{
		name: "principal-requests-per-second", env: "SALLYPORT_PRINCIPAL_REQUESTS_PER_SECOND", file: "gateway.limits.principal_requests_per_second", topic: topicLimits, kind: number, live: true, preset: "2000",
		usage: "calls of one caller after authentication, 0 = no limit",
	},
	{
		name: "principal-burst", env: "SALLYPORT_PRINCIPAL_BURST", file: "gateway.limits.principal_burst", topic: topicLimits, kind: number, live: true, preset: "4000", least: 1, most: 1 << 30,
		usage: "calls that one caller may make at once",
	},
	{
		name: "tenant-requests-per-second", env: "SALLYPORT_TENANT_REQUESTS_PER_SECOND", file: "gateway.limits.tenant_requests_per_second", topic: topicLimits, kind: number, live: true, preset: "10000",
		usage: "calls of all callers of one tenant, 0 = no limit",
	},
	{
		name: "tenant-burst", env: "SALLYPORT_TENANT_BURST", file: "gateway.limits.tenant_burst", topic: topicLimits, kind: number, live: true, preset: "20000", least: 1, most: 1 << 30,
		usage: "calls that one tenant may make at once",
	},
	{
		name: "anonymous-requests-per-second", env: "SALLYPORT_ANONYMOUS_REQUESTS_PER_SECOND", file: "gateway.limits.anonymous_requests_per_second", topic: topicLimits, kind: number, live: true, preset: "100",
		usage: "calls and pages without a credential from one address, 0 = no limit",
	},
	{
		name: "anonymous-burst", env: "SALLYPORT_ANONYMOUS_BURST", file: "gateway.limits.anonymous_burst", topic: topicLimits, kind: number, live: true, preset: "200", least: 1, most: 1 << 30,
		usage: "of these, how many at once",
	},
	{
		name: "failed-attempts-per-minute", env: "SALLYPORT_FAILED_ATTEMPTS_PER_MINUTE", file: "gateway.limits.failed_attempts_per_minute", topic: topicLimits, kind: number, live: true, preset: "600",
		usage: "refused credentials of one address before it has to wait, 0 = no limit",
	},
	{
		name: "grpc-rate-limit-requests", env: "OPENSHELL_GRPC_RATE_LIMIT_REQUESTS", file: "gateway.grpc_rate_limit_requests", topic: topicLimits, kind: number, live: true, preset: "",
		usage: "the reference's limit: calls in a window, of each caller",
		more:  "Together with the next; 0 in either means not at all. Replaces `--principal-requests-per-second`. In the reference it is one bucket for everybody, which one caller can empty.",
	},
	{
		name: "grpc-rate-limit-window-seconds", env: "OPENSHELL_GRPC_RATE_LIMIT_WINDOW_SECONDS", file: "gateway.grpc_rate_limit_window_seconds", topic: topicLimits, kind: number, live: true, preset: "", most: 86400,
		usage: "the reference's limit: seconds of the window",
	},
}

var auditSettings = []setting{
	{
		name: "audit-enabled", env: "SALLYPORT_AUDIT_ENABLED", file: "gateway.audit.enabled", topic: topicAudit, kind: boolean, preset: "true",
		usage: "keep the audit log", more: "Off when there is no folder for it: with a database in memory and no `--audit-dir`.",
	},
	{name: "audit-dir", env: "SALLYPORT_AUDIT_DIR", file: "gateway.audit.dir", topic: topicAudit, shown: "`audit` beside the database", usage: "folder of the audit log"},
	{
		name: "audit-max-bytes", env: "SALLYPORT_AUDIT_MAX_BYTES", file: "gateway.audit.max_bytes", topic: topicAudit, kind: number, preset: "67108864", least: mebibyte, most: 1 << 40,
		usage: "size of a file of the log before the next is begun",
	},
	{
		name: "audit-keep-files", env: "SALLYPORT_AUDIT_KEEP_FILES", file: "gateway.audit.keep_files", topic: topicAudit, kind: number, preset: "64", most: 1 << 20,
		usage: "closed files to keep, 0 = all of them",
	},
	{
		name: "audit-otlp-endpoint", env: "SALLYPORT_AUDIT_OTLP_ENDPOINT", file: "gateway.audit.otlp_endpoint", topic: topicAudit, form: webURL,
		usage: "URL to which each record is sent as an OTLP log over HTTP",
	},
}
