// Package callinfo is what every transport says of a call in the same words: the id it goes by in answers, logs and audit
// records, and where it came from. It knows nothing of who calls.
package callinfo

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"

	"github.com/google/uuid"
)

// maxRequestID bounds the id that a client may give, in bytes.
const maxRequestID = 128

// RequestID keeps a client's id if it is one, of printable characters without spaces, and else makes one. values are those
// of the header x-request-id.
func RequestID(values []string) string {
	if len(values) == 1 && saneID(values[0]) {
		return values[0]
	}
	return NewRequestID()
}

func saneID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// NewRequestID makes a random UUID. The generator is seeded from the system's entropy but is no secret's source: an
// id has only to be unique, and every call without one pays for this.
func NewRequestID() string {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // See above.
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // See above.
	id[6] = id[6]&0x0f | 0x40                            // version 4
	id[8] = id[8]&0x3f | 0x80                            // variant of RFC 9562
	return id.String()
}

// textAddr is the address of a peer that is no TCP address.
type textAddr string

// Network implements net.Addr.
func (textAddr) Network() string { return "other" }

// String implements net.Addr.
func (a textAddr) String() string { return string(a) }

// Remote is where a request came from, as the gRPC transport would say it.
func Remote(r *http.Request) net.Addr {
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return textAddr(r.RemoteAddr)
}

// Host is an address without its port, which says nothing about who called; empty for none.
func Host(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.Network()
	}
	return host
}
