package config

// algorithms are the signatures that tokens of people may have.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Bounds of the time between two fetches of an issuer's keys, in seconds.
const (
	leastKeysTTL = 10
	mostKeysTTL  = 7 * 86400
)

var peopleSettings = []setting{
	{
		name: "oidc-issuer", env: "OPENSHELL_OIDC_ISSUER", file: "gateway.oidc.issuer", topic: topicPeople, live: true, form: webURL,
		usage: "issuer of people's tokens", more: "Set but empty is an error. A slash at the end does not matter.",
	},
	{
		name: "oidc-audience", env: "OPENSHELL_OIDC_AUDIENCE", file: "gateway.oidc.audience", topic: topicPeople, live: true, preset: "openshell-cli",
		usage: "audience that tokens must name", more: "It is what the provider writes into `aud`; it need not be the id of the client that signs in.",
	},
	{
		name: "oidc-discovery-url", env: "SALLYPORT_OIDC_DISCOVERY_URL", file: "gateway.oidc.discovery_url", topic: topicPeople, live: true, form: webURL,
		shown: "below the issuer", usage: "where to fetch the discovery document if not below the issuer", more: "The document's issuer must still be the configured one.",
	},
	{
		name: "oidc-ca", env: "SALLYPORT_OIDC_CA", file: "gateway.oidc.ca_path", topic: topicPeople, live: true,
		shown: "the system's", usage: "PEM authorities of the provider's certificate",
	},
	{
		name: "oidc-algorithms", env: "SALLYPORT_OIDC_ALGORITHMS", file: "gateway.oidc.algorithms", topic: topicPeople, kind: list, live: true, choices: algorithms,
		shown: "all of them", usage: "signatures that tokens may have: RS, PS or ES 256, 384, 512, EdDSA",
	},
	{
		name: "oidc-jwks-ttl", env: "OPENSHELL_OIDC_JWKS_TTL", file: "gateway.oidc.jwks_ttl_secs", topic: topicPeople, kind: number, live: true, preset: "3600", least: leastKeysTTL, most: mostKeysTTL,
		usage: "seconds between refreshes of the issuer's keys", more: "Keys serve for 24 hours or twice this time, the longer, after the provider was last heard.",
	},
	{
		name: "oidc-roles-claim", env: "OPENSHELL_OIDC_ROLES_CLAIM", file: "gateway.oidc.roles_claim", topic: topicPeople, live: true, preset: "realm_access.roles", form: claimPath,
		usage: "path of the roles claim", more: "Names are separated by dots; a name that holds dots itself is put into double quotes.",
	},
	{
		name: "oidc-scopes-claim", env: "OPENSHELL_OIDC_SCOPES_CLAIM", file: "gateway.oidc.scopes_claim", topic: topicPeople, live: true, form: claimPath,
		usage: "path of the scopes claim; empty = scopes are not checked", more: "`openshell:all` satisfies every scope.",
	},
	{
		name: "oidc-username-claim", env: "SALLYPORT_OIDC_USERNAME_CLAIM", file: "gateway.oidc.username_claim", topic: topicPeople, live: true, preset: "preferred_username", form: claimPath,
		usage: "path of the name that is shown for a user", more: "It is for people only and never compared.",
	},
	{
		name: "oidc-allow-missing-audience", env: "SALLYPORT_OIDC_ALLOW_MISSING_AUDIENCE", file: "gateway.oidc.allow_missing_audience", topic: topicPeople, kind: boolean, live: true, preset: "false",
		usage: "INSECURE: accept tokens without audience (older development realm)",
	},
	{
		name: "oidc-accept-id-tokens", env: "SALLYPORT_OIDC_ACCEPT_ID_TOKENS", file: "gateway.oidc.accept_id_tokens", topic: topicPeople, kind: boolean, live: true, preset: "false",
		usage: "accept tokens that look like ID tokens", more: "Dex needs it: nothing tells its access tokens from ID tokens.",
	},
}

var ruleSettings = []setting{
	{
		name: "authorization-mode", env: "SALLYPORT_AUTHORIZATION_MODE", file: "gateway.authorization_mode", topic: topicRules, kind: choice, live: true, preset: "",
		shown: "`roles`", choices: []string{string(ModeRoles), string(ModeWorkspaces), string(ModeAuthenticated)},
		usage: "roles, workspaces or authenticated",
		more:  "`roles` decides by the role names alone, as the mvp generation does; `workspaces` by membership of workspaces, as the newer one does; `authenticated` lets whoever signs in do everything. If it is not given and both role names are empty, it is `authenticated`.",
	},
	{
		name: "oidc-admin-role", env: "OPENSHELL_OIDC_ADMIN_ROLE", file: "gateway.oidc.admin_role", topic: topicRules, live: true, preset: "openshell-admin", form: roleName,
		usage: "role of administrators", more: "They have the user role too. Holds for every issuer.",
	},
	{
		name: "oidc-user-role", env: "OPENSHELL_OIDC_USER_ROLE", file: "gateway.oidc.user_role", topic: topicRules, live: true, preset: "openshell-user", form: roleName,
		usage: "role of users", more: "One role name empty is an error; both are empty in the mode `authenticated` and in no other.",
	},
	{
		name: "sandbox-ownership", env: "SALLYPORT_SANDBOX_OWNERSHIP", file: "gateway.sandbox_ownership", topic: topicRules, kind: choice, live: true, preset: "auto",
		choices: []string{"auto", "private", "shared"}, usage: "auto, private or shared",
		more: "`private` keeps a sandbox to the user who made it and to administrators; `auto` is private in the mode `roles` and shared in the others.",
	},
	{
		name: "tenant", env: "SALLYPORT_TENANT", file: "gateway.tenant", topic: topicRules, live: true,
		usage: "the one tenant of this gateway, which every token must name in --tenant-claim",
		more:  "An audience does not tell tenants apart where clients get the audiences of several.",
	},
	{
		name: "tenant-claim", env: "SALLYPORT_TENANT_CLAIM", file: "gateway.tenant_claim", topic: topicRules, live: true, form: claimPath,
		usage: "path of the claim that names a user's tenants, for example groups", more: "A required claim of every issuer.",
	},
}

var openSettings = []setting{
	{
		name: "allow-unauthenticated-users", env: "SALLYPORT_ALLOW_UNAUTHENTICATED_USERS", file: "gateway.auth.allow_unauthenticated_users", topic: topicOpen, kind: boolean, preset: "false",
		usage: "INSECURE: callers that present nothing are administrators", more: "Loopback only, unless client certificates are demanded.",
	},
	{
		name: "enable-mtls-auth", env: "OPENSHELL_ENABLE_MTLS_AUTH", file: "gateway.mtls_auth.enabled", topic: topicOpen, kind: boolean, preset: "false",
		usage: "a client certificate is a user's identity where no token is presented",
		more:  "Needs TLS and `--tls-client-ca`; refused with the driver `kubernetes`. The subject is the certificate's CN, its roles are the OU values. The newer reference switches it on by itself with local drivers, whose sandboxes hold such a certificate; here it is never on unless you say so.",
	},
	{
		name: "mtls-default-roles", env: "SALLYPORT_MTLS_DEFAULT_ROLES", file: "gateway.mtls_auth.default_roles", topic: topicOpen, kind: list, form: roleName,
		usage: "roles of every client certificate, beside those it names",
	},
}
