package config

import (
	"net/netip"
	"time"
)

// Config is the checked configuration.
type Config struct {
	// File is the path of the configuration file, empty when there is none.
	File   string
	Listen Listen
	TLS    TLS
	// Issuers are the identity providers of people and machines; no two have the same name or issuer. The one that the
	// single-issuer flags configure is named DefaultIssuer and comes first.
	Issuers       []Issuer
	Authorization Authorization
	Auth          Auth
	MTLS          MTLSAuth
	Edge          Edge
	Services      Services
	Audit         Audit
	Tracing       Tracing
	Limits        Limits
	SSH           SSH
	Sandbox       SandboxIdentity
	Kubernetes    Kubernetes
	Drivers       Drivers
	// DatabaseURL names the store, for example "sqlite:/var/lib/openshell/openshell.db". It may hold a password.
	DatabaseURL string
	Database    Database
	// CredentialKey encrypts credentials in the store.
	CredentialKey CredentialKey
	// StateDir holds the keys that belong to the database, and what else is not in it; empty when all is in memory.
	StateDir string
	LogLevel string
	// LogFormat is json or text.
	LogFormat string
	// ShutdownGrace is how long calls in flight may go on after a signal to stop.
	ShutdownGrace time.Duration
	// Warnings are lines to print at start: settings without effect, insecure choices.
	Warnings []string

	entries []inForce
}

// Listen says where the gateway answers.
type Listen struct {
	Address netip.AddrPort
	// Health and Metrics are plaintext addresses of their own; invalid when off.
	Health  netip.AddrPort
	Metrics netip.AddrPort
	// FastPath: see listener.Config.
	FastPath bool
	// Public are addresses that serve users although a compute driver asks for them.
	Public []netip.Addr
}

// TLS names certificates. Certificate is empty when TLS is off.
type TLS struct {
	Certificate string
	Key         string
	ClientCA    string
	// RequireClient demands a client certificate of every connection.
	RequireClient bool
	// ExternalCertificate and ExternalKey answer the names of ExternalNames, each exact or "*." and a domain, where the
	// star stands for one label. Every other name, and none, gets Certificate.
	ExternalCertificate string
	ExternalKey         string
	ExternalNames       []string
}

// DefaultIssuer is the name of the issuer that the single-issuer flags configure.
const DefaultIssuer = "default"

// Issuer is one identity provider. Claims are named by paths, see claims.Path.
type Issuer struct {
	// Name stands for the issuer in logs, metrics and the audit.
	Name string
	// Issuer is what tokens say in "iss".
	Issuer string
	// Audiences: a token must name one of them. Never empty.
	Audiences []string
	// Algorithms are the JWS algorithms that tokens may be signed with; empty means every one that is built.
	Algorithms []string
	// DiscoveryURL is where the discovery document is if not below Issuer.
	DiscoveryURL string
	// CAPath is a PEM file of the authorities of the provider's certificate; empty means the system's.
	CAPath string
	// KeysTTL is the time between two fetches of the keys.
	KeysTTL       time.Duration
	RolesClaim    string
	ScopesClaim   string // empty means that scopes are not checked
	UsernameClaim string
	// Required are claims that every token must have; Tenant binding is among them.
	Required []RequiredClaim
	// RoleMap turns roles of the provider into roles of the gateway.
	RoleMap map[string][]string
	// StrictRoles drops every role that RoleMap does not name.
	StrictRoles bool
	// DefaultRoles are given to every user of the issuer.
	DefaultRoles []string
	// Tenant is the tenant of the issuer's users; empty means none.
	Tenant string
	// AllowMissingAudience accepts tokens that name no audience.
	AllowMissingAudience bool
	// AcceptIDTokens accepts tokens that look like ID tokens.
	AcceptIDTokens bool
	// Optional issuers do not hold up readiness.
	Optional bool
}

// RequiredClaim must hold for a token to be accepted: the claim is one of Values, or a list that has one of them.
type RequiredClaim struct {
	Claim  string
	Values []string
}

// Mode is how calls of users are decided.
type Mode string

// The modes.
const (
	// ModeRoles decides by the role names alone, as the mvp generation does.
	ModeRoles Mode = "roles"
	// ModeWorkspaces decides by membership of workspaces, as the newer generation does.
	ModeWorkspaces Mode = "workspaces"
	// ModeAuthenticated lets whoever signs in do everything; scopes still count.
	ModeAuthenticated Mode = "authenticated"
)

// Authorization is how calls of users are decided.
type Authorization struct {
	Mode Mode
	// AdminRole and UserRole are the names that tokens carry; both are empty in ModeAuthenticated only.
	AdminRole string
	UserRole  string
	// PrivateSandboxes keeps a sandbox to the user who made it and to administrators.
	PrivateSandboxes bool
	// Tenant is the one tenant of this gateway, which TenantClaim of every token must name; both empty when it has none.
	Tenant      string
	TenantClaim string
}

// Auth is what is allowed beside OIDC.
type Auth struct {
	// AllowUnauthenticated makes every caller without a token the local development user, an administrator.
	AllowUnauthenticated bool
	// SharedSecret serves supervisors that know only the secret of all sandboxes; empty when off.
	SharedSecret string
}

// MTLSAuth makes client certificates the identity of users who present no token.
type MTLSAuth struct {
	Enabled bool
	// DefaultRoles are given to every certificate, beside those it names itself.
	DefaultRoles []string
}

// Edge is what browsers and edge proxies need.
type Edge struct {
	// Connect serves /auth/connect, which hands the proxy's cookie to the command line client.
	Connect bool
	// Tunnel serves the WebSocket tunnel.
	Tunnel bool
	// AllowedOrigins are origins (scheme://host[:port]) that may open the tunnel beside the gateway's own.
	AllowedOrigins []string
	// AllowedHosts are names (host or host:port) under which pages and the tunnel answer, beside loopback names and
	// the address that is bound.
	AllowedHosts []string
}

// Audit is the audit log.
type Audit struct {
	Enabled bool
	// Dir holds its files; empty only when it is off.
	Dir string
	// MaxBytes is the size at which a file is closed and the next begun.
	MaxBytes int64
	// KeepFiles is the number of closed files that are kept; 0 keeps all.
	KeepFiles int
	// OTLPEndpoint gets each record as an OTLP log over HTTP; empty when off.
	OTLPEndpoint string
}

// Rate is a token bucket. PerSecond 0 means no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limits bound what peers may take.
type Limits struct {
	// Connections and ConnectionsPerAddress bound open connections; neither is 0. Loopback addresses are held to the
	// second only with LimitLoopback.
	Connections           int
	ConnectionsPerAddress int
	LimitLoopback         bool
	// Streams bounds the concurrent calls of one connection.
	Streams int
	// Principal and Tenant apply after authentication, Anonymous before it, to each address.
	Principal Rate
	Tenant    Rate
	Anonymous Rate
	// FailedPerMinute is how many credentials of one address may be refused in a minute before it has to wait; 0 means no
	// limit.
	FailedPerMinute int
}

// SSH is what clients of SSH sessions are told, empty or 0 where the gateway finds out by itself.
type SSH struct {
	Host string
	Port int
	Path string
	// TTL is the life of a session; 0 means for ever.
	TTL time.Duration
}

// SandboxIdentity is how sandbox tokens are made.
type SandboxIdentity struct {
	KeyDir    string
	GatewayID string
	// TTL 0 means tokens that never expire.
	TTL time.Duration
	// Recovery is how long after its end a token still opens RefreshSandboxToken; 0 means not at all.
	Recovery time.Duration
	// SigningKey, PublicKey and KeyID are files of the newer generation (PEM, PEM, text): a key that signs, instead of
	// the last one of KeyDir. All empty, or SigningKey at least is not.
	SigningKey string
	PublicKey  string
	KeyID      string
}

// Kubernetes is how pods prove which sandbox they are: IssueSandboxToken has their service account token reviewed.
type Kubernetes struct {
	Enabled bool
	// APIURL is the base URL of the API server.
	APIURL string
	// CAPath and TokenPath are the files of its authority and of the gateway's own token.
	CAPath    string
	TokenPath string
	// A pod's namespace must be among Namespaces or begin with NamespacePrefix.
	Namespaces      []string
	NamespacePrefix string
	// ServiceAccount is the name that the pods' accounts have.
	ServiceAccount string
	// Audience is what the pods' tokens must be made for.
	Audience string
}

// Drivers are the guests.
type Drivers struct {
	Name              string
	ComputeSocket     string
	CredentialsSocket string
}
