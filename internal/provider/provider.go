// Package provider owns providers: named sets of credentials and settings that sandboxes use. It decides what may be
// stored, keeps literal secrets encrypted, and composes the environment of a sandbox from its providers. It speaks
// no wire dialect; the store, the credentials driver and the question who uses a provider come in through New.
package provider

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the store's kind of providers.
const Kind store.Kind = "provider"

// DefaultWorkspace is meant by an empty workspace.
const DefaultWorkspace = "default"

// Redacted stands for every secret value that is shown. It is refused as a value, so that a caller that reads a
// provider, changes it and writes it back does not overwrite the secret with the marker.
const Redacted = "REDACTED"

// Provider is one provider as callers see it. What the service returns never holds a secret: a literal credential
// shows as Redacted, a reference to a driver credential as its notation.
type Provider struct {
	ID        string
	Name      string
	Workspace string
	// Owner is the actor that created the provider.
	Owner string
	// Type is a slug such as "github", exactly as it was sent.
	Type   string
	Labels map[string]string
	// Credentials maps environment variables to values. On the way in a value is a literal secret or a reference
	// in the notation of package credential.
	Credentials map[string]string
	// Config holds settings that are no secrets; they are stored and shown in clear.
	Config map[string]string
	// ExpiresAtMS is when credentials end, in milliseconds since 1970; a credential without entry does not.
	ExpiresAtMS map[string]int64
	// Version counts the writes, from 1.
	Version   uint64
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Redacted returns a copy in which every credential, references too, shows as Redacted, as clients of the older
// generations expect it.
func (p Provider) Redacted() Provider {
	hidden := make(map[string]string, len(p.Credentials))
	for k := range p.Credentials {
		hidden[k] = Redacted
	}
	p.Credentials = hidden
	return p
}

// LogValue keeps credentials and settings out of logs.
func (p Provider) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", p.ID), slog.String("name", p.Name), slog.String("workspace", p.Workspace),
		slog.String("type", p.Type), slog.Any("credentials", slices.Sorted(maps.Keys(p.Credentials))))
}

// record is the stored form.
type record struct {
	Type        string               `json:"type"`
	Credentials map[string]secretRow `json:"credentials,omitempty"`
	Config      map[string]string    `json:"config,omitempty"`
	ExpiresAtMS map[string]int64     `json:"expiresAtMs,omitempty"`
}

// secretRow is one credential at rest: either a reference, or an encrypted literal.
type secretRow struct {
	// Reference is the name of a driver credential.
	Reference string `json:"reference,omitempty"`
	// Sealed is an encrypted literal.
	Sealed []byte `json:"sealed,omitempty"`
	// Key is the id of the key that Sealed was encrypted with; earlier versions wrote none.
	Key string `json:"key,omitempty"`
}

type recordKey struct{}

// decode returns the object's record, decoded once a version and never changed.
func decode(o *store.Object) (*record, error) {
	v, err := o.Memo(recordKey{}, func() (any, error) {
		r := &record{}
		if err := json.Unmarshal(o.Payload, r); err != nil {
			return nil, err
		}
		return r, nil
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "PROVIDER_UNREADABLE", "stored provider '%s' cannot be read", o.Name).
			WithNext("restore the database from a backup, or delete this provider")
	}
	r, ok := v.(*record)
	if !ok {
		return nil, fault.New(fault.Internal, "PROVIDER_UNREADABLE", "stored provider '%s' cannot be read", o.Name)
	}
	return r, nil
}

func (r *record) clone() *record {
	return &record{
		Type: r.Type, Credentials: cloned(r.Credentials), Config: cloned(r.Config), ExpiresAtMS: cloned(r.ExpiresAtMS),
	}
}

// cloned is maps.Clone that never returns nil.
func cloned[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m))
	maps.Copy(out, m)
	return out
}
