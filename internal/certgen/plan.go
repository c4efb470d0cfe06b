package certgen

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/keyring"
)

// plan finds out what is to be written. It writes nothing.
type plan struct {
	place   place
	options Options
	parts   map[part]*found
	now     time.Time
	changes []change
	notes   []string
}

func (p *plan) make() error {
	if !p.options.SigningOnly {
		if err := p.certificates(); err != nil {
			return err
		}
	}
	if err := p.signing(); err != nil {
		return err
	}
	return p.encryption()
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

func (p *plan) write(what part, files map[string][]byte, why string) {
	p.changes = append(p.changes, change{part: what, files: files, was: p.parts[what], why: why})
}

// broken is the error for a part that cannot be used and that nobody but people may replace.
func (p *plan) broken(what part, cause error) error {
	return fmt.Errorf("%s in %s cannot be used: %w; restore it, or remove it with '%s' and run this again",
		p.place.name(what), p.place.title(), cause, p.place.remedy([]part{what}))
}

// certificates plans authority, server and client.
func (p *plan) certificates() error {
	server, client := p.parts[partServer], p.parts[partClient]
	if p.parts[partAuthority] == nil && (server != nil || client != nil) {
		return p.withoutAuthority()
	}
	authority, err := p.authority()
	if err != nil {
		return err
	}
	for _, leaf := range []struct {
		part part
		use  purpose
		name string
	}{{partServer, forServer, "server"}, {partClient, forClient, "client"}} {
		if err := p.leaf(authority, leaf.part, leaf.use, leaf.name); err != nil {
			return err
		}
	}
	return nil
}

// withoutAuthority handles certificates whose authority's key was not kept. They can be used and not be renewed; one
// without the other cannot be completed, as nobody would trust what a new authority signs.
func (p *plan) withoutAuthority() error {
	var there, absent []string
	var present []part
	for _, what := range []part{partServer, partClient} {
		if p.parts[what] != nil {
			there, present = append(there, p.place.name(what)), append(present, what)
		} else {
			absent = append(absent, p.place.name(what))
		}
	}
	if len(absent) > 0 {
		return fmt.Errorf("partial PKI state in %s: %s is there, %s is missing, and without %s it cannot be made; "+
			"remove what is there with '%s' and run this again, and give clients and sandboxes the new authority",
			p.place.title(), strings.Join(there, ", "), strings.Join(absent, ", "), p.place.name(partAuthority), p.place.remedy(present))
	}
	for what, use := range map[part]purpose{partServer: forServer, partClient: forClient} {
		cert, err := parseCertificate(p.parts[what].files[fileCert])
		if err != nil {
			return p.broken(what, err)
		}
		p.look(what, cert, use, "the key of its authority was not kept: to renew it, remove it with '"+p.place.remedy(present)+"' and run this again")
	}
	slices.Sort(p.notes)
	return nil
}

// look notes what is wrong with a certificate that is not ours to change.
func (p *plan) look(what part, cert *x509.Certificate, use purpose, who string) {
	name := p.place.name(what)
	switch left := cert.NotAfter.Sub(p.now); {
	case left <= 0:
		p.note("%s ended at %s; %s", name, at(cert.NotAfter), who)
	case left < p.options.RenewBefore:
		p.note("%s ends at %s; %s", name, at(cert.NotAfter), who)
	}
	if lacks := missing(cert, p.options.Names); use == forServer && len(lacks) > 0 {
		p.note("%s is not for %s; %s", name, strings.Join(lacks, ", "), who)
	}
}

func at(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// authority returns the authority, made or renewed if need be.
func (p *plan) authority() (*pair, error) {
	o, there := p.options, p.parts[partAuthority]
	if there == nil {
		made, err := newAuthority(p.now, o.AuthorityLife)
		if err != nil {
			return nil, err
		}
		p.write(partAuthority, authorityFiles(made), "new authority until "+at(made.cert.NotAfter))
		return made, nil
	}
	old, err := parsePair(there.files[fileCert], there.files[fileKey])
	if err == nil && !old.cert.IsCA {
		err = fmt.Errorf("its certificate is not that of an authority")
	}
	if err != nil {
		return nil, p.broken(partAuthority, err)
	}
	// It must outlive the next certificate that it signs.
	if old.cert.NotAfter.Sub(p.now) > o.Life {
		return old, nil
	}
	if there.foreign {
		p.look(partAuthority, old.cert, forClient, there.by+" renews it")
		if !old.cert.NotAfter.After(p.now) {
			return nil, p.broken(partAuthority, fmt.Errorf("it ended at %s, and %s has to renew it", at(old.cert.NotAfter), there.by))
		}
		return old, nil
	}
	renewed, err := old.renewed(p.now, o.AuthorityLife)
	if err != nil {
		return nil, err
	}
	p.write(partAuthority, authorityFiles(renewed), "authority renewed with the same key until "+at(renewed.cert.NotAfter))
	return renewed, nil
}

func authorityFiles(a *pair) map[string][]byte {
	return map[string][]byte{fileCert: a.certPEM, fileKey: a.keyPEM, fileAuthority: a.certPEM}
}

// leaf plans one certificate below the authority.
func (p *plan) leaf(authority *pair, what part, use purpose, name string) error {
	there, why := p.parts[what], "new "+name+" certificate"
	if there != nil {
		if there.foreign {
			cert, err := parseCertificate(there.files[fileCert])
			if err != nil {
				return p.broken(what, err)
			}
			p.look(what, cert, use, there.by+" has to renew it")
			return p.mixed(authority, what, cert)
		}
		why = p.stale(authority, there, use)
		if why == "" {
			if !authority.sameCertificate(there.files[fileAuthority]) {
				p.write(what, map[string][]byte{
					fileCert: there.files[fileCert], fileKey: there.files[fileKey], fileAuthority: authority.certPEM,
				}, "the authority's renewed certificate")
			}
			return nil
		}
		why = name + " certificate made anew, since " + why
	}
	made, err := authority.issue(use, p.options.Names, p.now, p.options.Life)
	if err != nil {
		return err
	}
	p.write(what, map[string][]byte{fileCert: made.certPEM, fileKey: made.keyPEM, fileAuthority: authority.certPEM}, why+", until "+at(made.cert.NotAfter))
	return nil
}

// mixed refuses to put a certificate of ours beside one of another authority.
func (p *plan) mixed(authority *pair, what part, cert *x509.Certificate) error {
	if authority.signed(cert) {
		return nil
	}
	other := partServer
	if what == partServer {
		other = partClient
	}
	if there := p.parts[other]; there != nil && there.foreign {
		return nil
	}
	return fmt.Errorf("partial PKI state in %s: %s was made by %s with another authority than %s; have one of them make all, "+
		"or remove the others' with '%s' and run this again", p.place.title(), p.place.name(what), p.parts[what].by, p.place.name(partAuthority), p.place.remedy([]part{what}))
}

// stale says why a certificate of ours has to be made anew; empty if it has not.
func (p *plan) stale(authority *pair, there *found, use purpose) string {
	old, err := parsePair(there.files[fileCert], there.files[fileKey])
	wanted := x509.ExtKeyUsageServerAuth
	if use == forClient {
		wanted = x509.ExtKeyUsageClientAuth
	}
	switch {
	case err != nil:
		return err.Error()
	case !authority.signed(old.cert):
		return "it is of another authority"
	case !slices.Contains(old.cert.ExtKeyUsage, wanted):
		return "it is not for this use"
	case old.cert.NotAfter.Sub(p.now) <= p.options.RenewBefore:
		return "it ends at " + at(old.cert.NotAfter)
	case use == forServer:
		if lacks := missing(old.cert, p.options.Names); len(lacks) > 0 {
			return "it is not for " + strings.Join(lacks, ", ")
		}
	}
	return ""
}

// signing plans the key of sandbox tokens. One that is there is never replaced: every token would be void.
func (p *plan) signing() error {
	if !p.place.wants(partSigning) {
		return nil
	}
	if there := p.parts[partSigning]; there != nil {
		if whole, err := completed(there.files); err != nil {
			return err
		} else if whole != nil && !there.foreign && checkSigningKey(whole) == nil {
			p.write(partSigning, whole, "completed the key of sandbox tokens")
			return nil
		}
		if err := checkSigningKey(there.files); err != nil {
			return p.broken(partSigning, err)
		}
		return nil
	}
	files, err := newSigningKey()
	if err != nil {
		return err
	}
	p.write(partSigning, files, "new key of sandbox tokens "+string(files[fileKeyID]))
	return nil
}

// encryption plans the key of credentials at rest. One that is there is never replaced: what it encrypted would be lost.
func (p *plan) encryption() error {
	if !p.place.wants(partEncryption) {
		return nil
	}
	if there := p.parts[partEncryption]; there != nil {
		if _, err := keyring.Parse(there.files[fileEncryption]); err != nil {
			return p.broken(partEncryption, fmt.Errorf("%s: %w", fileEncryption, err))
		}
		return nil
	}
	ring := keyring.Ring{keyring.New()}
	p.write(partEncryption, map[string][]byte{fileEncryption: bytes.TrimSpace(ring.Format())}, "new key of credentials at rest "+keyring.ID(ring[0]))
	return nil
}
