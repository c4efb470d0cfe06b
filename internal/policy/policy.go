// Package policy owns what the gateway must know of a sandbox policy: its hash and its revision. A policy passes
// through whole; what its rules mean is the supervisor's affair.
package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
)

// Hash returns the policy's hash: lower-case hexadecimal SHA-256 of its parts in a fixed order, as the mvp generation
// computes it. Clients compare hashes and print their first characters; none recomputes them. Middlewares, which
// that generation did not have, follow the network policies in the same form.
func Hash(p *sandboxpb.SandboxPolicy) (string, error) {
	p = proto.CloneOf(p)
	dropUnknown(p)
	h := sha256.New()
	var version [4]byte
	binary.LittleEndian.PutUint32(version[:], p.Version)
	h.Write(version[:])
	for _, part := range []struct {
		present bool
		message proto.Message
	}{
		{p.Filesystem != nil, p.Filesystem}, {p.Landlock != nil, p.Landlock}, {p.Process != nil, p.Process},
	} {
		if !part.present {
			continue
		}
		if err := add(h, part.message); err != nil {
			return "", err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.NetworkPolicies)) {
		h.Write([]byte(k))
		if err := add(h, p.NetworkPolicies[k]); err != nil {
			return "", err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.NetworkMiddlewares)) {
		h.Write([]byte(k))
		if err := add(h, p.NetworkMiddlewares[k]); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func add(h hash.Hash, m proto.Message) error {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode policy part: %w", err)
	}
	h.Write(raw)
	return nil
}
