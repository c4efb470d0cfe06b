package callback

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/internal/authz"
)

// FuzzExact looks for a driver's text that gets something else than one address with the gateway's port.
func FuzzExact(f *testing.F) {
	for _, s := range []string{"172.17.0.1:8080", "[fd00::1]:8080", "[::ffff:1.2.3.4]:8080", "0.0.0.0:8080", "[::]:8080", "[ff02::1%eth0]:8080", "1.2.3.4", ":8080"} {
		f.Add(s, uint16(8080))
	}
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		addr, err := exact(text, port)
		if err != nil {
			if _, ok := errors.AsType[refused](err); !ok || addr.IsValid() {
				t.Fatalf("%v, %v", addr, err)
			}
			return
		}
		at, err := netip.ParseAddrPort(text)
		if err != nil || at.Port() != port || at.Addr().Unmap() != addr {
			t.Fatalf("%q gave %s", text, addr)
		}
		if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" || addr.Is4In6() || addr.String() == "255.255.255.255" {
			t.Fatalf("%q gave %s", text, addr)
		}
	})
}

func TestDefaultRoute(t *testing.T) {
	t.Parallel()
	addr, err := defaultRoute(t.Context())
	if err != nil {
		t.Skipf("this machine has no default route: %v", err)
	}
	mine, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range mine {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(addr.AsSlice()) {
			return
		}
	}
	t.Errorf("%s is no address of this machine: %v", addr, mine)
}

// faulty is a listener that fails a few times before it is closed.
type faulty struct {
	net.Listener
	fails int
	done  chan struct{}
}

func (f *faulty) Accept() (net.Conn, error) {
	if f.fails > 0 {
		f.fails--
		return nil, errors.New("too many open files")
	}
	<-f.done
	return nil, net.ErrClosed
}

func (f *faulty) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 8080} }
func (f *faulty) Close() error   { close(f.done); return nil }

func TestTroubleOfTheOwnListenerIsPassedOn(t *testing.T) {
	t.Parallel()
	s := &Scope{}
	l := s.Listen(&faulty{fails: 2, done: make(chan struct{})})
	for range 2 {
		if c, err := l.Accept(); c != nil || err == nil || errors.Is(err, net.ErrClosed) {
			t.Fatalf("%v, %v", c, err)
		}
	}
	if l.Addr().String() != "10.9.9.9:8080" {
		t.Error(l.Addr())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// BenchmarkUnary measures what every call pays, at the gateway's own address below a wildcard.
func BenchmarkUnary(b *testing.B) {
	s := &Scope{cfg: Config{Table: &authz.Table{}}}
	v := &view{primary: netip.IPv6Unspecified(), callback: map[netip.Addr]bool{}}
	for i := range maxAddresses {
		v.callback[netip.AddrFrom4([4]byte{172, 17, 0, byte(i)})] = true
	}
	s.view.Store(v)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	ctx = peer.NewContext(ctx, &peer.Peer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 168, 1, 1), Port: 8080}})
	unary := s.Unary()
	info := &grpc.UnaryServerInfo{FullMethod: "/openshell.v1.OpenShell/ListSandboxes"}
	next := func(context.Context, any) (any, error) { return nil, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := unary(ctx, nil, info, next); err != nil {
			b.Fatal(err)
		}
	}
}
