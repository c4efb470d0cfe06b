package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"time"
)

// expirySoon is how long before its end a certificate is warned about.
const expirySoon = 30 * 24 * time.Hour

// Files are the files that the configuration is made of or names, and whose change calls for another look: the
// configuration file, certificates, keys and authorities. Each is there once, empty names are not.
func (c *Config) Files() []string {
	files := []string{
		c.File, c.TLS.Certificate, c.TLS.Key, c.TLS.ClientCA, c.TLS.ExternalCertificate, c.TLS.ExternalKey, c.Kubernetes.CAPath,
		c.Sandbox.SigningKey, c.Sandbox.PublicKey, c.Sandbox.KeyID,
	}
	for _, i := range c.Issuers {
		files = append(files, i.CAPath)
	}
	var out []string
	for _, f := range files {
		if f != "" && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// CheckFiles reads the certificates, keys and authorities that the configuration names. now decides about
// certificates that have ended, which are problems, or soon will, which are warnings.
func (c *Config) CheckFiles(now time.Time) (problems Problems, warnings []string) {
	f := &fileCheck{c: c, now: now}
	f.pair("gateway.tls.cert_path", c.TLS.Certificate, c.TLS.Key, nil)
	f.pair("gateway.tls.external_cert_path", c.TLS.ExternalCertificate, c.TLS.ExternalKey, c.TLS.ExternalNames)
	f.authorities("gateway.tls.client_ca_path", c.TLS.ClientCA)
	f.authorities("gateway.kubernetes.ca_path", c.Kubernetes.CAPath)
	f.readable("gateway.kubernetes.token_path", c.Kubernetes.TokenPath)
	f.readable("gateway.gateway_jwt.signing_key_path", c.Sandbox.SigningKey)
	f.readable("gateway.gateway_jwt.public_key_path", c.Sandbox.PublicKey)
	f.readable("gateway.gateway_jwt.kid_path", c.Sandbox.KeyID)
	for _, i := range c.Issuers {
		key := joined("gateway.oidc.issuers", i.Name) + ".ca_path"
		if i.Name == DefaultIssuer {
			key = "gateway.oidc.ca_path"
		}
		f.authorities(key, i.CAPath)
	}
	return f.problems, f.warnings
}

type fileCheck struct {
	c        *Config
	now      time.Time
	problems Problems
	warnings []string
}

func (f *fileCheck) fail(key, cause, remedy string) {
	p := Problem{Key: key}
	for _, e := range f.c.entries {
		if e.Key == key {
			p = e.place
		}
	}
	p.Cause, p.Remedy = cause, remedy
	f.problems = append(f.problems, &p)
}

func (f *fileCheck) readable(key, path string) {
	if path == "" {
		return
	}
	file, err := os.Open(path)
	if err != nil {
		f.fail(key, err.Error(), "name a file that the gateway's user can read")
		return
	}
	file.Close()
}

func (f *fileCheck) pair(key, cert, private string, names []string) {
	if cert == "" || private == "" {
		return
	}
	pair, err := tls.LoadX509KeyPair(cert, private)
	if err != nil {
		f.fail(key, err.Error(), "name a certificate chain and its own private key, both PEM")
		return
	}
	f.life(key, cert, pair.Leaf)
	for _, name := range names {
		probe := name
		if name[0] == '*' {
			probe = "any" + name[1:]
		}
		if err := pair.Leaf.VerifyHostname(probe); err != nil {
			f.warnings = append(f.warnings, fmt.Sprintf("%s is not made for the name %s", cert, name))
		}
	}
}

func (f *fileCheck) authorities(key, path string) {
	if path == "" {
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.fail(key, err.Error(), "name a file that the gateway's user can read")
		return
	}
	found := false
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.fail(key, fmt.Sprintf("%s: %v", path, err), "mend or remove that certificate")
			return
		}
		found = true
		f.life(key, path, cert)
	}
	if !found {
		f.fail(key, "no certificates found in file "+path, "name a file of PEM certificates")
	}
}

func (f *fileCheck) life(key, path string, cert *x509.Certificate) {
	switch {
	case f.now.After(cert.NotAfter):
		f.fail(key, fmt.Sprintf("%s: the certificate %q ended at %s", path, cert.Subject, cert.NotAfter.Format(time.RFC3339)), "renew it")
	case f.now.Before(cert.NotBefore):
		f.fail(key, fmt.Sprintf("%s: the certificate %q begins at %s", path, cert.Subject, cert.NotBefore.Format(time.RFC3339)), "set the clock, or wait")
	case f.now.Add(expirySoon).After(cert.NotAfter):
		f.warnings = append(f.warnings, fmt.Sprintf("%s: the certificate %q ends at %s", path, cert.Subject, cert.NotAfter.Format(time.RFC3339)))
	}
}
