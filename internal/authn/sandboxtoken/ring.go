package sandboxtoken

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// maxHeaders and maxHeader bound what peers can make a ring remember, in entries and bytes.
const (
	maxHeaders = 256
	maxHeader  = 512
)

// ring is one state of the keys. It never changes but for what it remembers of headers; a change of keys makes
// another.
type ring struct {
	// keys are in the order in which they came; the last signs.
	keys     []key
	verifier map[string]ed25519.PublicKey
	keySet   []byte
	// header is the first segment of every token that the signer signs.
	header string
	// generation is that of all rings since a key was last taken away: tokens verified with an earlier one may have
	// been verified with that key.
	generation uint64

	// headers remembers which first segments are ours: all tokens of a key share one, so that telling tokens apart
	// costs one look-up instead of decoding JSON on every call.
	mu      sync.RWMutex
	headers map[string]bool
}

// newRing makes a ring of keys, of which there must be one.
func newRing(keys []key, generation uint64) (*ring, error) {
	r := &ring{keys: keys, verifier: map[string]ed25519.PublicKey{}, generation: generation, headers: map[string]bool{}}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		if _, ok := r.verifier[k.id]; ok {
			continue
		}
		r.verifier[k.id] = k.public()
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: k.public(), KeyID: k.id, Algorithm: string(jose.EdDSA), Use: "sig",
		})
	}
	var err error
	if r.keySet, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	head, err := json.Marshal(header{Algorithm: string(jose.EdDSA), KeyID: r.signer().id, Type: "JWT"})
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	r.header = base64.RawURLEncoding.EncodeToString(head)
	return r, nil
}

func (r *ring) signer() key { return r.keys[len(r.keys)-1] }

// ids are the ids of all keys that verify, the signer's last.
func (r *ring) ids() []string {
	signer := r.signer().id
	out := make([]string, 0, len(r.verifier))
	seen := map[string]bool{signer: true}
	for _, k := range r.keys {
		if !seen[k.id] {
			seen[k.id] = true
			out = append(out, k.id)
		}
	}
	return append(out, signer)
}

// recognizes tells by a token's first segment whether the token is ours. The header comes back only where it had to
// be read. What the rest of the token looks like has no say, so that no token can spoil the answer for another.
func (r *ring) recognizes(head string) (bool, header) {
	r.mu.RLock()
	ours, known := r.headers[head]
	r.mu.RUnlock()
	if known {
		return ours, header{}
	}
	h, ok := decodeHeader(head)
	ours = ok && (isExtension(h) || h.Algorithm == string(jose.EdDSA) && r.verifier[h.KeyID] != nil)
	// A header that may be of a key to come is read again each time.
	if len(head) > maxHeader || !ours && h.Algorithm == string(jose.EdDSA) {
		return ours, h
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.headers) >= maxHeaders {
		clear(r.headers)
	}
	// A copy, so that the entry does not keep a whole token alive.
	r.headers[strings.Clone(head)] = ours
	return ours, h
}
