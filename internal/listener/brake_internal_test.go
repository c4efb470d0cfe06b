package listener

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// slowed returns a connection to read, and what its peer has.
func slowed(t *testing.T) (s *socket, peer net.Conn) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	return newSocket(here), there
}

// readAfter sends a byte and returns how long it took to be read.
func readAfter(t *testing.T, s *socket, peer net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	go peer.Write([]byte{1})
	if n, err := s.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	return time.Since(began)
}

func TestRefusedCallsAreReadLater(t *testing.T) {
	for _, tc := range []struct {
		name    string
		refused int
		want    time.Duration
	}{
		{"none", 0, 0},
		{"one", 1, slowEach},
		{"some", 7, 7 * slowEach},
		{"a flood", 100_000, slowMost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, peer := slowed(t)
				for range tc.refused {
					s.brake.Slow()
				}
				if got := readAfter(t, s, peer); got != tc.want {
					t.Errorf("read after %s, want %s", got, tc.want)
				}
				if got := readAfter(t, s, peer); got != 0 {
					t.Errorf("the next read came after %s, want at once", got)
				}
			})
		})
	}
}

// A proxy puts good callers and bad ones on one connection.
func TestAGoodCallKeepsItsConnectionFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := slowed(t)
		s.brake.Good()
		for range 1000 {
			s.brake.Slow()
		}
		if got := readAfter(t, s, peer); got != 0 {
			t.Errorf("read after %s although a good caller is on the connection", got)
		}
		time.Sleep(trusted - trustEach)
		s.brake.Good()
		time.Sleep(trusted - trustEach)
		s.brake.Slow()
		if got := readAfter(t, s, peer); got != 0 {
			t.Errorf("read after %s, within a minute of the last good call", got)
		}
		time.Sleep(trusted)
		s.brake.Slow()
		if got := readAfter(t, s, peer); got != slowEach {
			t.Errorf("read after %s, long after the last good call", got)
		}
	})
}

func TestASlowedConnectionEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := slowed(t)
		for range 1000 {
			s.brake.Slow()
		}
		began, done := time.Now(), make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read after the end: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s to end", took)
		}
	})
}

func BenchmarkGood(b *testing.B) {
	brake := new(brake)
	b.ReportAllocs()
	for b.Loop() {
		brake.Good()
	}
}
