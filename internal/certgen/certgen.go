// Package certgen makes the certificates and keys that a gateway, its clients and its sandboxes need, and renews what
// ends: an authority, a certificate of the server and one of clients, the key that signs sandbox tokens, the key that
// encrypts credentials. It keeps them in Secrets of Kubernetes or in a folder, under the names of the newer reference
// generation. What somebody else made it uses and never changes. It starts nothing and serves nothing.
package certgen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Lives of what is made, unless something else is asked for.
const (
	DefaultLife          = 365 * 24 * time.Hour
	DefaultAuthorityLife = 3650 * 24 * time.Hour
	DefaultRenewBefore   = 30 * 24 * time.Hour
)

// DefaultNames are what the server's certificate is for in any case, those of the reference.
func DefaultNames() []string {
	return []string{
		"openshell", "openshell.openshell.svc", "openshell.openshell.svc.cluster.local", "localhost", "openshell.localhost",
		"*.openshell.localhost", "host.docker.internal", "host.containers.internal", "127.0.0.1", "::1",
	}
}

// part is one of the things that are made, each in a Secret or some files of its own.
type part int

// The parts, in the order in which they are written: whatever comes later can be made again from what came before, so
// that a run that was cut off is finished by the next.
const (
	partAuthority part = iota
	partServer
	partClient
	partSigning
	partEncryption
)

// Files of a certificate in a Secret.
const (
	fileCert      = "tls.crt"
	fileKey       = "tls.key"
	fileAuthority = "ca.crt"
	// fileEncryption is the reference chart's name.
	fileEncryption = "key-encryption-key"
)

// found is a part that is there.
type found struct {
	files map[string][]byte
	// foreign parts were made by others, who alone may change them.
	foreign bool
	// by says who, for messages.
	by string
	// version is what the place needs to see that nobody else wrote meanwhile.
	version string
}

// change is a part to be written.
type change struct {
	part  part
	files map[string][]byte
	// was is what is there already, nil for nothing.
	was *found
	// why is for people.
	why string
}

// place is where parts are kept.
type place interface {
	// title says what the place is, as in "namespace agents".
	title() string
	// name is what people call a part there.
	name(part) string
	// wants tells whether a part is asked for.
	wants(part) bool
	// read returns what is there, with notes for people.
	read(ctx context.Context) (parts map[part]*found, notes []string, err error)
	// write makes the changes, all or none as far as the place can. errChanged means that somebody else was quicker.
	write(ctx context.Context, changes []change) error
	// remedy says how a part is removed by hand.
	remedy(parts []part) string
}

// errChanged reports that a part is not any more as it was read.
var errChanged = errors.New("changed meanwhile by somebody else")

// attempts bounds how often a run starts over because somebody else was quicker.
const attempts = 5

// Options say what is wanted.
type Options struct {
	// Names are what the server's certificate is for beside DefaultNames.
	Names []string
	// SigningOnly makes no certificates, only keys.
	SigningOnly bool
	// Life is that of certificates, AuthorityLife that of the authority; 0 means the default.
	Life, AuthorityLife time.Duration
	// RenewBefore is how long before its end a certificate is made anew; 0 means the default.
	RenewBefore time.Duration
	// DryRun tells what would be done and writes nothing.
	DryRun bool
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

func (o Options) complete() (Options, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, d := range []struct {
		value  *time.Duration
		preset time.Duration
	}{{&o.Life, DefaultLife}, {&o.AuthorityLife, DefaultAuthorityLife}, {&o.RenewBefore, DefaultRenewBefore}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	switch {
	case o.Life < time.Hour || o.RenewBefore < 0:
		return o, errors.New("certificates must live for an hour at least, and are renewed before their end")
	case o.RenewBefore >= o.Life:
		return o, fmt.Errorf("certificates that live for %s cannot be renewed %s before their end", o.Life, o.RenewBefore)
	case o.AuthorityLife <= o.Life:
		return o, fmt.Errorf("the authority, %s, must live longer than certificates, %s", o.AuthorityLife, o.Life)
	}
	var err error
	o.Names, err = alternatives(slices.Concat(DefaultNames(), o.Names))
	return o, err
}

// Report is what a run did, in lines for people. None holds a secret.
type Report struct {
	// Done are changes; with DryRun, changes that would be made.
	Done []string
	// Notes are what somebody should look at.
	Notes []string
}

// run brings the place into the state that the options ask for.
func run(ctx context.Context, p place, o Options) (*Report, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	for range attempts {
		parts, notes, err := p.read(ctx)
		if err != nil {
			return nil, err
		}
		plan := &plan{place: p, options: o, parts: parts, now: o.Now(), notes: notes}
		if err := plan.make(); err != nil {
			return nil, err
		}
		report := &Report{Notes: plan.notes}
		for _, c := range plan.changes {
			report.Done = append(report.Done, p.name(c.part)+": "+c.why)
		}
		if o.DryRun || len(plan.changes) == 0 {
			return report, nil
		}
		err = p.write(ctx, plan.changes)
		if err == nil {
			return report, nil
		}
		if !errors.Is(err, errChanged) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: others write at the same time; run it again when they are done", p.title())
}
