package config

import (
	"sallyport.dev/sallyport/internal/keyring"
)

// CredentialKey is where the keys that encrypt credentials at rest come from.
type CredentialKey struct {
	// Value is the text of the keys themselves; empty when File or the state directory has them.
	Value string
	// File has the keys; empty when Value or the state directory has them.
	File string
	// AcceptLost starts although stored credentials were encrypted with a key that is not among these.
	AcceptLost bool
}

var credentialKeySettings = []setting{
	{
		name: "credential-key", env: "OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY", topic: topicStore, noFlag: true, secret: true, form: credentialKeys,
		shown: "`credential.key` in the state directory, made at the first start",
		usage: "key that encrypts credentials at rest, 32 bytes in base64", more: "Several, separated by commas or lines: the first encrypts, all decrypt, see [credentials.md](credentials.md).",
	},
	{
		name: "credential-key-file", env: "SALLYPORT_CREDENTIAL_KEY_FILE", file: "gateway.credential_storage.key_encryption_key_path", topic: topicStore,
		usage: "file of that key or those keys", more: "The text of the variable, or 32 plain bytes.",
	},
	{
		name: "credential-key-env", file: "gateway.credential_storage.key_encryption_key_env", topic: topicStore,
		usage: "another variable that has them",
	},
	{
		name: "accept-lost-credentials", env: "SALLYPORT_ACCEPT_LOST_CREDENTIALS", file: "gateway.credential_storage.accept_lost", topic: topicStore, kind: boolean, preset: "false",
		usage: "start although stored credentials cannot be decrypted, because their key is lost", more: "They answer with an error until they are set again.",
	},
}

// credentialKeys is a form. Its words never hold a key.
func credentialKeys(value string) (cause, remedy string) {
	if _, err := keyring.Parse([]byte(value)); err != nil {
		return "must be keys of 32 bytes in base64: " + err.Error(), "make one with 'openssl rand -base64 32'"
	}
	return "", ""
}

func (c *Config) credentialKey(v *values) {
	k := CredentialKey{Value: v.text("credential-key"), File: v.text("credential-key-file"), AcceptLost: v.flag("accept-lost-credentials")}
	if name := v.text("credential-key-env"); name != "" {
		switch value, ok := v.env(name); {
		case k.Value != "" && name != byName("credential-key").env:
			v.fail("credential-key-env", "the keys are in "+v.said("credential-key")+" too", "name one place")
		case !ok || value == "":
			v.fail("credential-key-env", "the variable "+name+" is not set", "set it, or name a file with --credential-key-file")
		default:
			if cause, remedy := credentialKeys(value); cause != "" {
				v.fail("credential-key-env", "the variable "+name+" "+cause, remedy)
			}
			k.Value = value
		}
	}
	if k.Value != "" && k.File != "" {
		v.fail("credential-key-file", "the keys are in a variable too", "name one place")
	}
	if k.Value == "" && k.File == "" && IsPostgres(c.DatabaseURL) {
		v.warn("the key that encrypts credentials is on this machine only, in %s, and the database is not: set OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY", c.StateDir)
	}
	if k.AcceptLost {
		v.warn("%s: credentials whose key is lost are not usable until they are set again", v.said("accept-lost-credentials"))
	}
	c.CredentialKey = k
}
