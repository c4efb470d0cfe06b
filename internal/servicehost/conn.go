package servicehost

import (
	"net"
	"sync/atomic"
	"time"
)

// conn is a relay as a connection that is closed when it has carried nothing for too long.
type conn struct {
	net.Conn
	idle  time.Duration
	began time.Time
	// last is when bytes were carried last, in nanoseconds since began.
	last  atomic.Int64
	timer *time.Timer
}

func newConn(under net.Conn, idle time.Duration) *conn {
	c := &conn{Conn: under, idle: idle, began: time.Now()}
	ready := make(chan struct{})
	// The timer looks at the clock only when it has run out, so that carrying bytes costs no more than noting the time.
	c.timer = time.AfterFunc(idle, func() {
		<-ready
		left := time.Duration(c.last.Load()) + c.idle - time.Since(c.began)
		if left <= 0 {
			c.Conn.Close()
			return
		}
		c.timer.Reset(left)
	})
	close(ready)
	return c
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.last.Store(int64(time.Since(c.began)))
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.last.Store(int64(time.Since(c.began)))
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.timer.Stop()
	return c.Conn.Close()
}
