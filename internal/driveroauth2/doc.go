// Package driveroauth2 is the credentials driver for OAuth 2.0 client credentials: it turns the name of a
// configured credential into a fresh access token of an identity provider (Keycloak or any other), over the
// mvp generation's CredentialsDriver contract. It owns the driver's configuration file, the client secrets it
// reads and the tokens it caches; it knows nothing of gateways, sandboxes or providers, and never logs a secret
// or a token.
package driveroauth2
