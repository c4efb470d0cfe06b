package gateway

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/tlsfiles"
)

// expiryNotice is how long before its end a certificate is warned about.
const expiryNotice = 30 * 24 * time.Hour

func filesOf(c config.TLS) tlsfiles.Config {
	return tlsfiles.Config{
		Certificate: c.Certificate, Key: c.Key, ClientCA: c.ClientCA, RequireClient: c.RequireClient,
		ExternalCertificate: c.ExternalCertificate, ExternalKey: c.ExternalKey, ExternalNames: c.ExternalNames,
	}
}

// openTLS reads the certificates; nil without TLS. What is returned follows what Apply puts in force.
func (g *Gateway) openTLS() (*tls.Config, error) {
	if g.cfg.TLS.Certificate == "" {
		return nil, nil
	}
	bundle, err := tlsfiles.Open(filesOf(g.cfg.TLS))
	if err != nil {
		return nil, err
	}
	g.certificates.Store(bundle)
	g.warnOfExpiry()
	out := bundle.TLS().Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		now := g.certificates.Load().TLS()
		if now.GetConfigForClient == nil {
			return now, nil
		}
		return now.GetConfigForClient(hello)
	}
	return out, nil
}

// reloadTLS puts the certificates that next names in force, or fails and changes nothing.
func (g *Gateway) reloadTLS(old, next config.TLS) error {
	bundle := g.certificates.Load()
	switch {
	case bundle == nil:
		return nil // TLS comes and goes with a restart only.
	case reflect.DeepEqual(old, next):
		if err := bundle.Reload(); err != nil {
			return fmt.Errorf("read the certificates again: %w", err)
		}
	case next.Certificate != "":
		opened, err := tlsfiles.Open(filesOf(next))
		if err != nil {
			return fmt.Errorf("read the certificates: %w", err)
		}
		g.certificates.Store(opened)
	}
	g.warnOfExpiry()
	return nil
}

func (g *Gateway) warnOfExpiry() {
	for _, c := range g.certificates.Load().EndingSoon(expiryNotice) {
		g.log.Warn("a certificate ends soon", "file", c.Path, "subject", c.Subject, "ends", c.NotAfter)
	}
}
