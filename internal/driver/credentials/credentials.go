// Package credentials is the gateway's side of a credentials driver: it asks for tokens by name and for the list of
// names, and believes no answer unchecked. Caching and references belong to internal/credential.
package credentials

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/gen/mvp/credentialspb"
	"sallyport.dev/sallyport/internal/driver"
)

// The service goes by this name on the wire. Its messages are generated under another package, because a later
// generation has different messages of the same names there.
const service = "/openshell.credentials.v1.CredentialsDriver/"

// Bounds on what is asked and answered.
const (
	MaxName    = 128
	MaxToken   = 64 << 10
	MaxList    = 10_000
	maxType    = 64
	maxScopes  = 256
	maxScope   = 256
	maxExpires = 1 << 53 // Milliseconds; anything later is no time.
)

// Token is a credential's value at one time.
type Token struct {
	// Value is secret: it belongs in no log, error or stored object.
	Value string
	// Type is the driver's word for how the value is used, for example "bearer"; may be empty.
	Type string
	// Expires is the end of the value's life; zero for one that does not expire.
	Expires time.Time
}

// String hides the value.
func (t Token) String() string {
	return fmt.Sprintf("Token{%d bytes, type %q, expires %s}", len(t.Value), t.Type, t.Expires.Format(time.RFC3339))
}

// GoString hides the value.
func (t Token) GoString() string { return t.String() }

// LogValue hides the value.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Info describes a credential without its value.
type Info struct {
	Name   string
	Scopes []string
}

// ValidName tells whether name can be a credential's: 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'.
func ValidName(name string) bool {
	if name == "" || len(name) > MaxName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Client talks to one credentials driver. It is safe for concurrent use; its errors are *fault.Error.
type Client struct{ conn *driver.Conn }

// New returns a client on conn, which the caller keeps and closes.
func New(conn *driver.Conn) *Client { return &Client{conn: conn} }

// Ready returns nil if the driver is connected and answers.
func (c *Client) Ready() error { return c.conn.Ready() }

// Resolve asks for the current value of a credential. Every call reaches the driver.
func (c *Client) Resolve(ctx context.Context, name string) (Token, error) {
	const method = "ResolveCredential"
	out := &credentialspb.ResolveCredentialResponse{}
	err := c.conn.Invoke(ctx, service+method, &credentialspb.ResolveCredentialRequest{Name: name}, out, driver.Retryable())
	if err != nil {
		return Token{}, err
	}
	wrong := ""
	switch {
	case out.GetToken() == "":
		wrong = "the token is empty"
	case len(out.GetToken()) > MaxToken:
		wrong = fmt.Sprintf("the token has %d bytes, at most %d are taken", len(out.GetToken()), MaxToken)
	case strings.ContainsAny(out.GetToken(), "\x00\r\n"):
		// Such a value is refused by every supervisor and could split a header.
		wrong = "the token has line breaks or NUL bytes"
	case out.GetExpiresAtMs() < 0 || out.GetExpiresAtMs() > maxExpires:
		wrong = "the expiry is no time"
	case len(out.GetTokenType()) > maxType:
		wrong = "the token type is too long"
	}
	if wrong != "" {
		return Token{}, driver.InvalidAnswer(c.conn.Name(), method, "credential %q: %s", name, wrong)
	}
	t := Token{Value: out.GetToken(), Type: out.GetTokenType()}
	if ms := out.GetExpiresAtMs(); ms > 0 {
		t.Expires = time.UnixMilli(ms)
	}
	return t, nil
}

// List returns what the driver can hand out, sorted by name.
func (c *Client) List(ctx context.Context) ([]Info, error) {
	const method = "ListCredentials"
	out := &credentialspb.ListCredentialsResponse{}
	err := c.conn.Invoke(ctx, service+method, &credentialspb.ListCredentialsRequest{}, out, driver.Retryable())
	if err != nil {
		return nil, err
	}
	if n := len(out.GetCredentials()); n > MaxList {
		return nil, driver.InvalidAnswer(c.conn.Name(), method, "%d credentials, at most %d are read", n, MaxList)
	}
	infos := make([]Info, 0, len(out.GetCredentials()))
	for _, in := range out.GetCredentials() {
		if !ValidName(in.GetName()) {
			return nil, driver.InvalidAnswer(c.conn.Name(), method,
				"a credential's name is not 1 to %d letters, digits, '.', '_' or '-'", MaxName)
		}
		if len(in.GetScopes()) > maxScopes || slices.ContainsFunc(in.GetScopes(), func(s string) bool { return len(s) > maxScope }) {
			return nil, driver.InvalidAnswer(c.conn.Name(), method, "credential %q has too many or too long scopes", in.GetName())
		}
		infos = append(infos, Info{Name: in.GetName(), Scopes: slices.Clone(in.GetScopes())})
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(infos); i++ {
		if infos[i].Name == infos[i-1].Name {
			return nil, driver.InvalidAnswer(c.conn.Name(), method, "credential %q appears twice", infos[i].Name)
		}
	}
	return infos, nil
}
