package dev

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 365 * 24 * time.Hour
	// renewBefore is how much life a certificate must have left to be kept at a start.
	renewBefore = 30 * 24 * time.Hour
)

// certificates are the files of the development TLS set-up.
type certificates struct {
	ca, cert, key string
	caPEM         []byte
}

// ensureCertificates keeps the authority and the server certificate in dir, making or renewing what is missing
// or about to expire. The authority can vouch for this machine's own names only, so that trusting it gives nobody
// else's name away.
func ensureCertificates(dir string, now time.Time) (certificates, error) {
	c := certificates{
		ca: filepath.Join(dir, "ca.crt"), cert: filepath.Join(dir, "server.crt"), key: filepath.Join(dir, "server.key"),
	}
	caKey := filepath.Join(dir, "ca.key")
	authority, err := loadPair(c.ca, caKey, now)
	if err == nil && authority == nil {
		authority, err = makeAuthority(c.ca, caKey, now)
	}
	if err != nil {
		return c, fmt.Errorf("prepare certificate authority: %w", err)
	}
	server, err := loadPair(c.cert, c.key, now)
	if err == nil && (server == nil || server.Leaf.CheckSignatureFrom(authority.Leaf) != nil) {
		err = makeServer(c.cert, c.key, authority, now)
	}
	if err != nil {
		return c, fmt.Errorf("prepare server certificate: %w", err)
	}
	c.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Leaf.Raw})
	return c, nil
}

// loadPair returns nil without error where there is no pair yet or it is close to its end.
func loadPair(cert, key string, now time.Time) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // absence is an ordinary answer here
	}
	if err != nil {
		return nil, fmt.Errorf("%s and its key do not fit, remove both: %w", cert, err)
	}
	if now.Add(renewBefore).After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return nil, nil //nolint:nilnil // as above
	}
	return &pair, nil
}

func makeAuthority(certFile, keyFile string, now time.Time) (*tls.Certificate, error) {
	loopback4 := &net.IPNet{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}
	loopback6 := &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Sallyport"}, CommonName: "Sallyport development CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"localhost"},
		PermittedIPRanges:           []*net.IPNet{loopback4, loopback6},
	}
	return issue(certFile, keyFile, template, nil)
}

func makeServer(certFile, keyFile string, authority *tls.Certificate, now time.Time) error {
	_, err := issue(certFile, keyFile, &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Sallyport"}, CommonName: "Sallyport development gateway"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(serverLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              []string{"localhost", "*.openshell.localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, authority)
	return err
}

// issue makes a key and a certificate signed by authority, or by itself where that is nil.
func issue(certFile, keyFile string, template *x509.Certificate, authority *tls.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, fmt.Errorf("choose serial number: %w", err)
	}
	parent, signer := template, any(key)
	if authority != nil {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	if err := replaceFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return nil, err
	}
	if err := replaceFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return nil, err
	}
	// Certificates are no secret, and clients of other users may need the authority's.
	if err := os.Chmod(certFile, 0o644); err != nil { //nolint:gosec // public by nature
		return nil, fmt.Errorf("publish certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
