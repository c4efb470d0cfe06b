package callback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"sallyport.dev/sallyport/internal/driver/compute"
)

// refused says why a requirement will not be met, whatever happens.
type refused string

// Error is the reason.
func (r refused) Error() string { return string(r) }

// resolve returns the address that a requirement means. The error is a refused, or says why the address is not known
// at the moment.
func resolve(ctx context.Context, r compute.Requirement, port uint16, route func(context.Context) (netip.Addr, error)) (netip.Addr, error) {
	if port == 0 {
		return netip.Addr{}, refused("the gateway itself listens on no port")
	}
	switch r.Place {
	case compute.ExactPlace:
		return exact(r.Address, port)
	case compute.LoopbackPlace:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	case compute.DefaultRoutePlace:
		addr, err := route(ctx)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("find the interface of the default route: %w", err)
		}
		addr = plain(addr)
		if !addr.Is4() || !addr.IsPrivate() {
			return netip.Addr{}, refused(fmt.Sprintf("the interface of the default route has the address %s, which is not a private IPv4 address", addr))
		}
		return addr, nil
	case compute.UnknownPlace:
	}
	return netip.Addr{}, refused("it names no address in a way this gateway knows")
}

// exact reads an address that a driver names itself. What a driver writes is for one address of this machine, never for
// all of them or for a group.
func exact(text string, port uint16) (netip.Addr, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{}, refused(fmt.Sprintf("%q is no IP address with a port", text))
	}
	addr := at.Addr().Unmap()
	switch {
	case at.Port() != port:
		return netip.Addr{}, refused(fmt.Sprintf("it asks for port %d; the gateway's is %d", at.Port(), port))
	case addr.IsUnspecified():
		return netip.Addr{}, refused("it asks for all addresses; only one is given")
	case addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, refused("it asks for the address of a group")
	case addr.Zone() != "":
		return netip.Addr{}, refused("it asks for an address that means something on one interface only")
	}
	return addr, nil
}

// somewhere is an address that no network has (RFC 5737), so that the way to it is the default route.
const somewhere = "192.0.2.1:9"

// defaultRoute returns the address from which this machine would send what goes by the default route. Connecting a
// datagram socket chooses that address and sends nothing.
func defaultRoute(ctx context.Context) (netip.Addr, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp4", somewhere)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, errors.New("the system gave no address")
	}
	return local.AddrPort().Addr(), nil
}

func open(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	var c net.ListenConfig
	return c.Listen(ctx, network, at.String())
}
