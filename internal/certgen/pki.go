package certgen

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Subjects, those of the reference where a peer looks at them.
const (
	authorityName    = "openshell-ca"
	serverName       = "openshell-server"
	clientName       = "openshell-client"
	clientUnit       = "openshell-user"
	organization     = "openshell"
	backdated        = 5 * time.Minute
	maxAlternatives  = 100
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
	// certPEM and keyPEM are how they are kept.
	certPEM, keyPEM []byte
}

// parsePair reads a certificate and a key that belong together.
func parsePair(certPEM, keyPEM []byte) (*pair, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("the key is not in PEM")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, errors.New("certificate and key do not belong together")
	}
	return &pair{cert: cert, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != certificateBlock {
		return nil, errors.New("the certificate is not in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errors.New("the certificate cannot be read")
	}
	return cert, nil
}

// parseKey reads the forms in which others may have made a key.
func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("the key cannot be read")
}

// newAuthority makes an authority with a key of its own.
func newAuthority(now time.Time, life time.Duration) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return selfSigned(key, pkix.Name{Organization: []string{organization}, CommonName: authorityName}, now, life)
}

// renewed is the authority with the same key and name and a later end: what it signed stays good, and who trusts the
// earlier certificate trusts what it signs from now on.
func (p *pair) renewed(now time.Time, life time.Duration) (*pair, error) {
	return selfSigned(p.key, p.cert.Subject, now, life)
}

func selfSigned(key crypto.Signer, subject pkix.Name, now time.Time, life time.Duration) (*pair, error) {
	template := &x509.Certificate{
		Subject: subject, NotBefore: now.Add(-backdated), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(template, nil, key, key)
}

// purpose is what a certificate is for.
type purpose int

const (
	forServer purpose = iota
	forClient
)

// issue makes a certificate with a key of its own. It does not outlive the authority.
func (p *pair) issue(use purpose, names []string, now time.Time, life time.Duration) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-backdated), NotAfter: now.Add(life), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if template.NotAfter.After(p.cert.NotAfter) {
		template.NotAfter = p.cert.NotAfter
	}
	switch use {
	case forServer:
		template.Subject = pkix.Name{Organization: []string{organization}, CommonName: serverName}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		for _, name := range names {
			if ip, err := netip.ParseAddr(name); err == nil {
				template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
			} else {
				template.DNSNames = append(template.DNSNames, name)
			}
		}
	case forClient:
		template.Subject = pkix.Name{Organization: []string{organization}, OrganizationalUnit: []string{clientUnit}, CommonName: clientName}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return sign(template, p.cert, key, p.key)
}

// sign finishes a certificate; a nil parent means that it signs itself.
func sign(template, parent *x509.Certificate, key, by crypto.Signer) (*pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the new certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return &pair{
		cert: cert, key: key,
		certPEM: pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}), keyPEM: pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: private}),
	}, nil
}

// signed tells whether the authority's key signed a certificate, whichever of its certificates was in force then.
func (p *pair) signed(cert *x509.Certificate) bool {
	return cert.CheckSignatureFrom(p.cert) == nil
}

// missing returns those of the names that a certificate is not for.
func missing(cert *x509.Certificate, names []string) []string {
	var out []string
	for _, name := range names {
		found := false
		if ip, err := netip.ParseAddr(name); err == nil {
			found = slices.ContainsFunc(cert.IPAddresses, func(other net.IP) bool {
				a, ok := netip.AddrFromSlice(other)
				return ok && a.Unmap() == ip.Unmap()
			})
		} else {
			found = slices.ContainsFunc(cert.DNSNames, func(other string) bool { return strings.EqualFold(other, name) })
		}
		if !found {
			out = append(out, name)
		}
	}
	return out
}

// alternatives checks names and drops what is there twice; their order stays.
func alternatives(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		if ip, err := netip.ParseAddr(name); err == nil && ip.Zone() == "" {
			name = ip.Unmap().String()
		} else if !dnsName(strings.TrimPrefix(name, "*.")) {
			return nil, fmt.Errorf("%q is neither a DNS name nor an IP address", name)
		}
		if name = strings.ToLower(name); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) > maxAlternatives {
		return nil, fmt.Errorf("%d names for the server, more than %d", len(out), maxAlternatives)
	}
	return out, nil
}

// dnsName tells whether a name is one of letters, digits and hyphens, as hosts and objects of Kubernetes have.
func dnsName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(strings.ToLower(label), letters) != "" {
			return false
		}
	}
	return true
}

// sameCertificate tells whether PEM text holds exactly this certificate.
func (p *pair) sameCertificate(data []byte) bool {
	cert, err := parseCertificate(data)
	return err == nil && bytes.Equal(cert.Raw, p.cert.Raw)
}
