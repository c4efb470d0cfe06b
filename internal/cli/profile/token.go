package profile

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"sallyport.dev/sallyport/internal/fault"
)

// Token is a bearer token with what is needed to renew it: oidc_token.json of a gateway's directory.
type Token struct {
	AccessToken string
	// RefreshToken is empty when the provider gave none, as for client credentials.
	RefreshToken string
	// Expiry is zero when the provider did not say; such a token never counts as stale.
	Expiry   time.Time
	Issuer   string
	ClientID string
}

// tokenJSON has the keys of both families of clients: expires_at for one, expiry and expires_in for the other.
type tokenJSON struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	// ExpiresAt is in seconds of the Unix epoch. It is read as a number of any form and written as an integer.
	ExpiresAt json.Number `json:"expires_at,omitempty"`
	Issuer    string      `json:"issuer"`
	ClientID  string      `json:"client_id"`
	Expiry    string      `json:"expiry,omitempty"`
	// ExpiresIn is in seconds from the moment of writing.
	ExpiresIn int64 `json:"expires_in,omitempty"`
}

// String keeps a token out of logs and test failures.
func (t Token) String() string { return "Token(" + t.Issuer + ", " + t.ClientID + ")" }

// SaveToken stores the token of a gateway. For a gateway that the machine's administrator registered, the
// registration is copied into the user's layer first: some clients refuse a directory with a token alone.
func (r Root) SaveToken(name string, t Token) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Stat(r.gateway(name, metadataFile)); errors.Is(err, fs.ErrNotExist) {
		if m, err := r.Load(name); err == nil {
			if err := r.Save(m); err != nil {
				return err
			}
		}
	}
	j := tokenJSON{AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, Issuer: t.Issuer, ClientID: t.ClientID}
	if !t.Expiry.IsZero() {
		j.ExpiresAt = json.Number(fmt.Sprint(t.Expiry.Unix()))
		j.Expiry = t.Expiry.UTC().Truncate(time.Second).Format(time.RFC3339)
		j.ExpiresIn = max(0, int64(time.Until(t.Expiry).Seconds()))
	}
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode token: %w", err)
	}
	if err := r.writeFile(r.gateway(name, tokenFile), append(data, '\n')); err != nil {
		return err
	}
	return remove(r.gateway(name, promptFile))
}

// LoadToken reads the token of a gateway; what a bundle of another client lacks is filled from its
// registration. Kind Unauthenticated when there is none or it cannot be read.
func (r Root) LoadToken(m Metadata) (Token, error) {
	if err := CheckName(m.Name); err != nil {
		return Token{}, err
	}
	data, err := readFile(r.gateway(m.Name, tokenFile))
	var j tokenJSON
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	if err == nil && j.AccessToken == "" {
		err = errors.New("no access_token")
	}
	if err != nil {
		return Token{}, fault.Wrap(err, fault.Unauthenticated, ReasonNotSignedIn,
			"you are not signed in to gateway '%s'", m.Name).WithNext("run `sallyport gateway login %s`", m.Name)
	}
	t := Token{AccessToken: j.AccessToken, RefreshToken: j.RefreshToken, Issuer: j.Issuer, ClientID: j.ClientID}
	if t.Issuer == "" {
		t.Issuer = m.OIDCIssuer
	}
	if t.ClientID == "" {
		t.ClientID = m.OIDCClientID
	}
	if secs, err := j.ExpiresAt.Float64(); err == nil && secs > 0 {
		t.Expiry = time.Unix(int64(secs), 0)
	} else if at, err := time.Parse(time.RFC3339, j.Expiry); err == nil && !at.IsZero() {
		t.Expiry = at
	}
	return t, nil
}

// DeleteToken forgets the token of a gateway and leaves the mark that makes the next browser login ask for a
// user again. It tells whether there was a token.
func (r Root) DeleteToken(name string) (bool, error) {
	if err := CheckName(name); err != nil {
		return false, err
	}
	path := r.gateway(name, tokenFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := remove(path); err != nil {
		return false, err
	}
	return true, r.writeFile(r.gateway(name, promptFile), []byte("1\n"))
}

// PromptRequired tells whether the next browser login must ask for a user, because the last one signed out.
func (r Root) PromptRequired(name string) bool {
	if CheckName(name) != nil {
		return false
	}
	_, err := os.Stat(r.gateway(name, promptFile))
	return err == nil
}

// Lock takes the lock on a gateway's tokens that all processes of this program share, and returns what gives it
// back. It waits until ctx is done.
func (r Root) Lock(ctx context.Context, name string) (func(), error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	// Outside of the gateway's directory: a directory made for a lock alone would hide a registration of the
	// machine from some clients.
	if err := r.mkdir(filepath.Join(r.dir, locksDir)); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(r.dir, locksDir, name+".lock"), flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fault.Wrap(err, fault.DeadlineExceeded, ReasonLockTimeout,
			"another command is still renewing the token of gateway '%s'", name).
			WithNext("try again when it is done")
	}
	//nolint:errcheck // The kernel drops the lock with the descriptor; there is nothing to do about a failure.
	return func() { lock.Unlock() }, nil
}

// MTLS is the TLS material for a gateway; absent files are empty.
type MTLS struct {
	CA, Cert, Key []byte
}

// SaveCA stores the certificates, in PEM, that vouch for a gateway.
func (r Root) SaveCA(name string, ca []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := checkCertificates(ca); err != nil {
		return fault.Wrap(err, fault.InvalidArgument, ReasonInvalidCert, "the certificate authority is not usable").
			WithNext("give a PEM file with at least one certificate")
	}
	return r.writeFile(r.gateway(name, mtlsDir, caFile), ca)
}

// SaveClient stores the certificate and key, in PEM, with which a gateway recognises this user.
func (r Root) SaveClient(name string, cert, key []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := r.writeFile(r.gateway(name, mtlsDir, keyFile), key); err != nil {
		return err
	}
	return r.writeFile(r.gateway(name, mtlsDir, certFile), cert)
}

func checkCertificates(data []byte) error {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("unexpected PEM block %q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("parse certificate: %w", err)
		}
		n++
	}
	if n == 0 {
		return errors.New("no certificate in it")
	}
	return nil
}

// LoadMTLS reads the TLS material of a gateway.
func (r Root) LoadMTLS(name string) (MTLS, error) {
	if err := CheckName(name); err != nil {
		return MTLS{}, err
	}
	var m MTLS
	for file, into := range map[string]*[]byte{caFile: &m.CA, certFile: &m.Cert, keyFile: &m.Key} {
		data, err := readFile(r.gateway(name, mtlsDir, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return MTLS{}, fmt.Errorf("read TLS material of gateway %q: %w", name, err)
		}
		*into = data
	}
	return m, nil
}

// DeleteMTLS removes the TLS material of a gateway.
func (r Root) DeleteMTLS(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return remove(r.gateway(name, mtlsDir))
}

// SaveLastSandbox remembers the sandbox that was used last. Nothing is written for a gateway without a
// registration of the user's own, see SaveToken.
func (r Root) SaveLastSandbox(name, workspace, sandbox string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Stat(r.gateway(name, metadataFile)); err != nil {
		return nil //nolint:nilerr // Only a convenience; see above.
	}
	return r.writeFile(r.gateway(name, lastFile), []byte(workspace+"\n"+sandbox))
}

// LastSandbox is the sandbox that was used last in the workspace; empty when there is none. A file of one line
// was written by a client without workspaces and counts for the default one.
func (r Root) LastSandbox(name, workspace string) string {
	if CheckName(name) != nil {
		return ""
	}
	data, err := readFile(r.gateway(name, lastFile))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	switch {
	case len(lines) == 1 && workspace == "default":
		return strings.TrimSpace(lines[0])
	case len(lines) == 2 && strings.TrimSpace(lines[0]) == workspace:
		return strings.TrimSpace(lines[1])
	default:
		return ""
	}
}
