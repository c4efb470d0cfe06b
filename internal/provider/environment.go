package provider

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/store"
)

// revisionWait bounds how long Revision waits for a driver; a value that comes later changes the next revision.
const revisionWait = 2 * time.Second

// Environment is what a sandbox's providers amount to at one moment.
type Environment struct {
	// Values are secrets by variable.
	Values map[string]string
	// ExpiresAtMS is when values end; a variable without entry does not.
	ExpiresAtMS map[string]int64
	// Origins tells where each variable of Values comes from.
	Origins map[string]Origin
	// Failures are the variables that should be there and are not, in the order of the providers.
	Failures []Failure
	// Revision is the one that Revision returns for the same state.
	Revision uint64
}

// Origin is a credential of a provider.
type Origin struct {
	Provider   string
	ProviderID string
	// Credential is the driver credential's name, empty for a literal.
	Credential string
}

// Failure is a variable whose value could not be had.
type Failure struct {
	Origin
	Key string
	Err *fault.Error
}

// LogValue shows names only.
func (e *Environment) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("variables", slices.Sorted(maps.Keys(e.Values))), slog.Int("failures", len(e.Failures)))
}

// attached is one provider on the way to an environment.
type attached struct {
	object *store.Object
	record *record
}

// load returns the providers of the names, each once, in order.
func (s *Service) load(workspace string, names []string) ([]attached, error) {
	out := make([]attached, 0, len(names))
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		o, err := s.store.ByName(Kind, workspaceOr(workspace), name)
		if errors.Is(err, store.ErrNotFound) {
			return nil, fault.Wrap(err, fault.FailedPrecondition, "PROVIDER_NOT_FOUND", "provider '%s' not found", name).
				WithNext("create the provider, or use one of 'sallyport provider list'")
		}
		if err != nil {
			return nil, storeFault(err)
		}
		r, err := decode(o)
		if err != nil {
			return nil, err
		}
		out = append(out, attached{o, r})
	}
	return out, nil
}

// CheckAttachable tells whether one sandbox may use the providers together: there are at most 32, all exist, and no
// two of them set one variable.
func (s *Service) CheckAttachable(_ context.Context, workspace string, names []string) error {
	if len(names) > limits.MaxProviders {
		return fault.New(fault.InvalidArgument, limits.ReasonTooMany, "providers list exceeds maximum (%d > %d)",
			len(names), limits.MaxProviders).WithNext("attach at most %d providers", limits.MaxProviders)
	}
	providers, err := s.load(workspace, names)
	if err != nil {
		return err
	}
	owner := map[string]string{}
	for _, p := range providers {
		for _, k := range slices.Sorted(maps.Keys(p.record.Credentials)) {
			if !injectable(k) {
				continue
			}
			if first, taken := owner[k]; taken {
				return fault.New(fault.FailedPrecondition, "CREDENTIAL_COLLISION",
					"credential env key '%s' is provided by both provider '%s' and provider '%s'; use provider-specific env names",
					k, first, p.object.Name).WithNext("rename the key in one of the two providers, or attach only one")
			}
			owner[k] = p.object.Name
		}
	}
	return nil
}

// Attach runs write, which stores that a sandbox uses the providers, if CheckAttachable allows it; meanwhile no
// provider is deleted in this process.
func (s *Service) Attach(ctx context.Context, workspace string, names []string, write func() error) error {
	s.attaching.RLock()
	defer s.attaching.RUnlock()
	if err := s.CheckAttachable(ctx, workspace, names); err != nil {
		return err
	}
	return write()
}

// Environment composes the variables of a sandbox from its providers in order; where two set one variable, the
// first wins. Driver credentials are resolved at the same time; one that fails is a Failure and leaves the others
// alone. It fails as a whole only where a provider is missing or cannot be read, or ctx ends.
func (s *Service) Environment(ctx context.Context, workspace string, names []string) (*Environment, error) {
	providers, err := s.load(workspace, names)
	if err != nil {
		return nil, err
	}
	now := s.now()
	tokens := s.resolveAll(ctx, providers, now)
	if ctx.Err() != nil {
		return nil, fault.Wrap(context.Cause(ctx), fault.Canceled, credential.ReasonCallEnded,
			"the call ended before the provider environment was resolved").WithNext("try again")
	}
	env := &Environment{Values: map[string]string{}, ExpiresAtMS: map[string]int64{}, Origins: map[string]Origin{}}
	claimed := map[string]string{}
	for _, p := range providers {
		for _, k := range slices.Sorted(maps.Keys(p.record.Credentials)) {
			if s.skip(p, k, claimed, now) {
				continue
			}
			claimed[k] = p.object.Name
			s.add(env, p, k, tokens)
		}
	}
	env.Revision = s.revision(providers, tokens, now)
	return env, nil
}

// skip tells, and logs, why a stored credential does not become a variable.
func (s *Service) skip(p attached, key string, claimed map[string]string, now time.Time) bool {
	var why string
	switch {
	case !injectable(key):
		why = "its name cannot be used as an environment variable"
	case expired(p.record.ExpiresAtMS[key], now):
		why = "it has expired"
	case claimed[key] != "":
		why = "an earlier provider sets the same variable"
	default:
		return false
	}
	s.log.Warn("credential left out of a sandbox's environment", "provider", p.object.Name,
		"workspace", p.object.Workspace, "key", key, "reason", why)
	return true
}

// add puts one variable, or its failure, into env.
func (s *Service) add(env *Environment, p attached, key string, tokens map[string]resolved) {
	row := p.record.Credentials[key]
	origin := Origin{Provider: p.object.Name, ProviderID: p.object.ID, Credential: row.Reference}
	var value string
	expires := p.record.ExpiresAtMS[key]
	if row.Reference != "" {
		t := tokens[row.Reference]
		if t.err != nil {
			env.Failures = append(env.Failures, Failure{Origin: origin, Key: key, Err: t.err})
			return
		}
		value = t.token.Value
		if ms := t.token.Expires.UnixMilli(); !t.token.Expires.IsZero() && (expires == 0 || ms < expires) {
			expires = ms
		}
	} else {
		var err error
		if value, _, err = s.sealer.open(p.object.ID, p.object.Workspace, key, row); err != nil {
			env.Failures = append(env.Failures, Failure{Origin: origin, Key: key, Err: fault.Wrap(err, fault.Internal,
				"CREDENTIAL_UNREADABLE", "stored credential '%s' of provider '%s' cannot be decrypted", key, p.object.Name).
				WithNext("restore the gateway's encryption key, or set the credential again")})
			return
		}
	}
	env.Values[key], env.Origins[key] = value, origin
	if expires > 0 {
		env.ExpiresAtMS[key] = expires
	}
}

// Revision changes with everything that Environment depends on, values of driver credentials included, and is the
// same after a restart. It is opaque. While a driver cannot be asked, its last known values count.
func (s *Service) Revision(ctx context.Context, workspace string, names []string) (uint64, error) {
	providers, err := s.load(workspace, names)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, revisionWait)
	defer cancel()
	now := s.now()
	return s.revision(providers, s.resolveAll(ctx, providers, now), now), nil
}

// resolved is the outcome for one driver credential.
type resolved struct {
	token credentials.Token
	err   *fault.Error
}

// resolveAll asks for each driver credential once, all at the same time.
func (s *Service) resolveAll(ctx context.Context, providers []attached, now time.Time) map[string]resolved {
	out := map[string]resolved{}
	for _, p := range providers {
		for k, row := range p.record.Credentials {
			if row.Reference != "" && injectable(k) && !expired(p.record.ExpiresAtMS[k], now) {
				out[row.Reference] = resolved{}
			}
		}
	}
	if len(out) == 0 {
		return out
	}
	names := slices.Collect(maps.Keys(out))
	results := make([]resolved, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			token, err := s.resolver.Resolve(ctx, name)
			if err != nil {
				results[i].err = fault.From(err)
				return
			}
			results[i].token = token
		})
	}
	wg.Wait()
	for i, name := range names {
		out[name] = results[i]
	}
	return out
}

func (s *Service) revision(providers []attached, tokens map[string]resolved, now time.Time) uint64 {
	h := sha256.New()
	text(h, "sallyport provider environment revision v1")
	for _, p := range providers {
		text(h, p.object.Name)
		text(h, p.object.ID)
		number(h, p.object.Version)
		number(h, uint64(len(p.record.Credentials)))
		for _, k := range slices.Sorted(maps.Keys(p.record.Credentials)) {
			text(h, k)
			ends := p.record.ExpiresAtMS[k]
			number(h, uint64(ends))
			if expired(ends, now) {
				number(h, 1)
				continue
			}
			number(h, 0)
			if ref := p.record.Credentials[k].Reference; ref != "" {
				mark := s.generation(ref, tokens[ref])
				h.Write(mark[:])
			}
		}
	}
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// generation marks the value of a driver credential. A driver that is away changes nothing.
func (s *Service) generation(name string, r resolved) [16]byte {
	token := r.token
	if r.err != nil {
		token, _ = s.resolver.Last(name)
	}
	if token.Value == "" {
		return [16]byte{}
	}
	return s.sealer.fingerprint(token.Value)
}

func text(h hash.Hash, s string) {
	number(h, uint64(len(s)))
	h.Write([]byte(s))
}

func number(h hash.Hash, n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

func expired(ms int64, now time.Time) bool { return ms > 0 && ms <= now.UnixMilli() }

// injectable tells whether a credential's key can become a variable: a portable name that neither belongs to the
// gateway nor looks like a placeholder that supervisors make up, such as v12_NAME or s<64 hex digits>_NAME.
func injectable(key string) bool {
	if !limits.ValidEnvName(key) || strings.HasPrefix(key, "OPENSHELL_") {
		return false
	}
	head, _, ok := strings.Cut(key, "_")
	if !ok || len(head) < 2 {
		return true
	}
	switch head[0] {
	case 'v':
		return strings.Trim(head[1:], "0123456789") != ""
	case 's':
		return len(head) != 65 || strings.Trim(head[1:], "0123456789abcdefABCDEF") != ""
	}
	return true
}
