package listener

import (
	"crypto/x509"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// slowEach is how long a connection is not read for each refused call, slowMost for how long at the most.
	slowEach = 20 * time.Millisecond
	slowMost = 5 * time.Second
	// trusted is how long a connection is never slowed after a good call: a proxy may put callers of all kinds on it.
	trusted = time.Minute
	// trustEach is how precisely the last good call is known, so that not every call writes it.
	trustEach = time.Second
)

// brake slows a connection on which nothing but refused calls arrive, by reading it later. What its client has sent
// meanwhile waits in the client's own memory: a flood then costs the gateway neither time nor space, however fast it is
// sent. Calls that were read are answered as ever. It is safe for concurrent use.
type brake struct {
	// until is when the connection is read again, good when it last had a good call; both in Unix nanoseconds, 0 is never.
	until, good atomic.Int64
	// over is closed with the connection. It is made by who waits, since most connections never do.
	over  atomic.Pointer[chan struct{}]
	ended atomic.Bool
}

// Good notes that a caller on this connection was believed.
func (b *brake) Good() {
	now := time.Now().UnixNano()
	if last := b.good.Load(); now-last > int64(trustEach) {
		b.good.Store(now)
	}
}

// Slow puts off the next read of the connection a little further, unless it had a good call lately.
func (b *brake) Slow() {
	now := time.Now().UnixNano()
	if now-b.good.Load() < int64(trusted) {
		return
	}
	for {
		until := b.until.Load()
		next := min(max(until, now)+int64(slowEach), now+int64(slowMost))
		if b.until.CompareAndSwap(until, next) {
			return
		}
	}
}

// wait returns when the connection may be read, or is closed. It is for one goroutine at a time.
func (b *brake) wait() {
	until := b.until.Load()
	if until == 0 { // As on all connections but those of a flood.
		return
	}
	over := make(chan struct{})
	b.over.Store(&over)
	for !b.ended.Load() {
		// A clock that is set back makes nobody wait longer.
		rest := min(time.Duration(until-time.Now().UnixNano()), slowMost)
		if rest <= 0 {
			break
		}
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-over:
			timer.Stop()
		}
		if b.until.CompareAndSwap(until, 0) {
			break
		}
		until = b.until.Load()
	}
	b.over.Store(nil)
}

// end lets go who waits.
func (b *brake) end() {
	if b.ended.CompareAndSwap(false, true) {
		if over := b.over.Load(); over != nil {
			close(*over)
		}
	}
}

// sealedInfo describes a connection with TLS.
type sealedInfo struct {
	credentials.TLSInfo
	*brake
}

// Certificate returns the peer's certificate if TLS verified it against the client CA, not one that was merely presented.
func (i *sealedInfo) Certificate() *x509.Certificate {
	chains := i.State.VerifiedChains
	if len(chains) == 0 || len(chains[0]) == 0 {
		return nil
	}
	return chains[0][0]
}

// plainInfo describes a connection without TLS.
type plainInfo struct {
	credentials.CommonAuthInfo
	*brake
}

// AuthType implements credentials.AuthInfo.
func (*plainInfo) AuthType() string { return "plaintext" }

func sealedInfoOf(b *brake, s credentials.TLSInfo) *sealedInfo {
	s.CommonAuthInfo = credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return &sealedInfo{TLSInfo: s, brake: b}
}

func plainInfoOf(b *brake) *plainInfo {
	return &plainInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, brake: b}
}

// brakeOf finds the brake of a connection that came through a socket; any other gets one that slows nothing.
func brakeOf(c net.Conn) *brake {
	if s, ok := c.(*socket); ok {
		return &s.brake
	}
	return new(brake)
}
