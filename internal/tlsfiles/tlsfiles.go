// Package tlsfiles keeps the certificates of a TLS port in step with files: certificate, key, client authorities and a
// second certificate for other names. What is in force changes as a whole or not at all. It does not watch the files,
// and knows nothing of who is let in with a client certificate.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config names the files; all of them are PEM.
type Config struct {
	// Certificate is the chain that the port presents, its own certificate first, and Key the private key of that one.
	Certificate string
	Key         string
	// ClientCA holds the authorities of client certificates; empty asks clients for none. A certificate of another
	// authority is refused even where none is needed.
	ClientCA string
	// RequireClient refuses clients without a certificate. It needs ClientCA.
	RequireClient bool
	// ExternalCertificate and ExternalKey are presented, instead, to clients that ask for one of ExternalNames: a name,
	// or "*." and a domain, where the star stands for exactly one label. Clients that ask for another name or for none
	// get Certificate.
	ExternalCertificate string
	ExternalKey         string
	ExternalNames       []string
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Bundle is what the files held when they were last good. It may be used by many goroutines.
type Bundle struct {
	cfg     Config
	loading sync.Mutex // held by Reload, so that two of them end in the order in which they read
	current atomic.Pointer[state]
}

// state is one reading of all files. It does not change.
type state struct {
	config *tls.Config
	expiry []Certificate
}

// Open reads the files.
func Open(cfg Config) (*Bundle, error) {
	switch {
	case cfg.Certificate == "" || cfg.Key == "":
		return nil, errors.New("open the TLS files: certificate and key are needed")
	case cfg.RequireClient && cfg.ClientCA == "":
		return nil, errors.New("open the TLS files: client certificates are required, and no file names their authorities")
	case (cfg.ExternalCertificate == "") != (cfg.ExternalKey == ""):
		return nil, errors.New("open the TLS files: the external certificate and its key belong together")
	case cfg.ExternalCertificate != "" && len(cfg.ExternalNames) == 0:
		return nil, errors.New("open the TLS files: the external certificate has no names to be presented for")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b := &Bundle{cfg: cfg}
	s, err := b.load()
	if err != nil {
		return nil, err
	}
	b.current.Store(s)
	return b, nil
}

// TLS returns a server's configuration. Each handshake uses what was in force when it began.
func (b *Bundle) TLS() *tls.Config {
	c := b.current.Load().config.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return b.current.Load().config, nil }
	return c
}

// Reload reads all files again. It puts them in force if all are good, and else leaves everything as it is and says
// why. Connections that are open keep what they began with. A certificate that is not valid now does not replace one
// that is.
func (b *Bundle) Reload() error {
	b.loading.Lock()
	defer b.loading.Unlock()
	next, err := b.load()
	if err != nil {
		return fmt.Errorf("keep the certificates in force: %w", err)
	}
	now, old := b.cfg.Now(), b.current.Load()
	for i, c := range next.expiry {
		if !c.validAt(now) && (i >= len(old.expiry) || old.expiry[i].validAt(now)) {
			return fmt.Errorf("keep the certificates in force: %s: the certificate %q is valid from %s to %s", c.Path, c.Subject,
				c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
	}
	b.current.Store(next)
	return nil
}

// Files returns the paths of all files, each once, for a watcher.
func (b *Bundle) Files() []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, path := range []string{
		b.cfg.Certificate, b.cfg.Key, b.cfg.ClientCA, b.cfg.ExternalCertificate, b.cfg.ExternalKey,
	} {
		if !seen[path] {
			seen[path] = true
			out = append(out, path)
		}
	}
	return out
}

// Certificate is a certificate in force.
type Certificate struct {
	// Path is the file that it came from, and the value of a metric's label.
	Path string
	// Subject names its holder, for people.
	Subject   string
	NotBefore time.Time
	NotAfter  time.Time
}

func (c Certificate) validAt(t time.Time) bool { return !t.Before(c.NotBefore) && !t.After(c.NotAfter) }

// Expiry returns what is in force and when it ends: the certificate, the external one if there is one, and, of the
// client authorities, the one that ends last, since after it no client is believed.
func (b *Bundle) Expiry() []Certificate {
	return append([]Certificate(nil), b.current.Load().expiry...)
}

// EndingSoon returns the certificates that end within d or have ended.
func (b *Bundle) EndingSoon(d time.Duration) []Certificate {
	var out []Certificate
	for _, c := range b.Expiry() {
		if !b.cfg.Now().Add(d).Before(c.NotAfter) {
			out = append(out, c)
		}
	}
	return out
}

func (b *Bundle) load() (*state, error) {
	primary, life, err := pair(b.cfg.Certificate, b.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("load the certificate: %w", err)
	}
	s := &state{
		expiry: []Certificate{life},
		config: &tls.Config{Certificates: []tls.Certificate{*primary}, MinVersion: tls.VersionTLS12, Time: b.cfg.Now},
	}
	if b.cfg.ExternalCertificate != "" {
		external, life, err := pair(b.cfg.ExternalCertificate, b.cfg.ExternalKey)
		if err != nil {
			return nil, fmt.Errorf("load the external certificate: %w", err)
		}
		s.expiry = append(s.expiry, life)
		s.config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if named(b.cfg.ExternalNames, hello.ServerName) {
				return external, nil
			}
			return primary, nil
		}
	}
	if b.cfg.ClientCA == "" {
		return s, nil
	}
	authorities, err := certificates(b.cfg.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("load the client authorities: %w", err)
	}
	s.config.ClientCAs = x509.NewCertPool()
	last := authorities[0]
	for _, a := range authorities {
		s.config.ClientCAs.AddCert(a)
		if a.NotAfter.After(last.NotAfter) {
			last = a
		}
	}
	s.expiry = append(s.expiry, lifeOf(b.cfg.ClientCA, last))
	s.config.ClientAuth = tls.VerifyClientCertIfGiven
	if b.cfg.RequireClient {
		s.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return s, nil
}

// named tells whether a name that a client asks for is one of names.
func named(names []string, asked string) bool {
	asked = strings.ToLower(strings.TrimSuffix(asked, "."))
	if asked == "" {
		return false
	}
	_, parent, dotted := strings.Cut(asked, ".")
	for _, n := range names {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if n == asked {
			return true
		}
		if domain, wild := strings.CutPrefix(n, "*."); wild && dotted && parent == domain {
			return true
		}
	}
	return false
}
