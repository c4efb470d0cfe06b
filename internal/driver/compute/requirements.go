package compute

import (
	"context"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
)

// Place says how a driver names an address that it wants the gateway to listen on.
type Place uint8

// The places that the contract knows.
const (
	// UnknownPlace is what only a newer driver can name.
	UnknownPlace Place = iota
	// ExactPlace is Requirement.Address.
	ExactPlace
	// DefaultRoutePlace is the address of the interface that the default route goes through.
	DefaultRoutePlace
	// LoopbackPlace is this machine alone.
	LoopbackPlace
)

// String returns the place's name in logs.
func (p Place) String() string {
	switch p {
	case ExactPlace:
		return "exact address"
	case DefaultRoutePlace:
		return "interface of the default route"
	case LoopbackPlace:
		return "loopback"
	default:
		return "unknown"
	}
}

// Requirement is a further address at which sandboxes of a driver have to reach the gateway. Nothing in it has been
// checked but its length.
type Requirement struct {
	Place Place
	// Address is the driver's text of an ExactPlace, "ip:port"; empty otherwise.
	Address string
	// Reason is for logs.
	Reason string
}

// maxRequirements bounds what is read of an answer.
const maxRequirements = 1024

// ListenerRequirements asks where sandboxes have to reach the gateway besides its own address. A driver of a generation
// that does not know the question has no requirements.
func (c *Client) ListenerRequirements(ctx context.Context) ([]Requirement, error) {
	const method = "GetGatewayListenerRequirements"
	r, err := c.rpc.GetGatewayListenerRequirements(ctx, &computepb.GetGatewayListenerRequirementsRequest{}, driver.Retryable())
	if driver.Answered(err) && driver.CodeOf(err) == codes.Unimplemented {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if n := len(r.GetRequirements()); n > maxRequirements {
		return nil, driver.InvalidAnswer(c.conn.Name(), method, "%d requirements, at most %d are read", n, maxRequirements)
	}
	out := make([]Requirement, 0, len(r.GetRequirements()))
	for _, in := range r.GetRequirements() {
		q := Requirement{Reason: cut(in.GetReason(), maxWord)}
		switch s := in.GetSelector().(type) {
		case *computepb.GatewayListenerRequirement_ExactBindAddress:
			q.Place, q.Address = ExactPlace, cut(s.ExactBindAddress, maxWord)
		case *computepb.GatewayListenerRequirement_DefaultRouteInterface:
			q.Place = DefaultRoutePlace
		case *computepb.GatewayListenerRequirement_LoopbackInterface:
			q.Place = LoopbackPlace
		}
		out = append(out, q)
	}
	return out, nil
}

// Connected is driver.Conn's.
func (c *Client) Connected(ctx context.Context, seen int) (int, error) {
	return c.conn.Connected(ctx, seen)
}
