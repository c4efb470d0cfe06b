package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/servicehost"
)

// exposed is what keeps and what serves the services of sandboxes.
type exposed struct {
	services *service.Service
	hosts    *servicehost.Handler
	recorder audit.Recorder
}

// openServices builds the services of sandboxes.
func (g *Gateway) openServices() (*service.Service, error) {
	c := g.cfg.Services
	services, err := service.New(service.Config{
		Store: g.store, Access: g.identity.rules, Sandboxes: g.sandboxes, Logger: g.log,
		Address: service.Address{Secure: c.Secure, Port: c.Port, Domains: c.Domains, Gateway: c.Gateway},
	})
	if err != nil {
		return nil, fmt.Errorf("open the services of sandboxes: %w", err)
	}
	g.exposed.services, g.exposed.recorder = services, g.recorder
	return services, nil
}

// openHosts builds what serves them.
func (g *Gateway) openHosts() (err error) {
	g.exposed.hosts, err = servicehost.New(servicehost.Config{
		Services: g.exposed.services, Relays: g.relays, Authenticator: g.identity.known, Authorizer: g.identity.rules,
		Limiter: g.identity.limiter, Users: g.identity.revoked, Audit: g.recorder, Logger: g.log, Observe: g.metrics.served,
		Loopback: g.cfg.Services.Loopback, SessionTTL: g.cfg.Services.SessionTTL,
	})
	if err != nil {
		return fmt.Errorf("set up the hosts of services: %w", err)
	}
	return nil
}

// serviceHosts serves the hosts of services, but not where only sandboxes are served, and hands other requests to next.
func (g *Gateway) serviceHosts(next http.Handler) http.Handler {
	own, address := g.callback.HTTP(g.exposed.hosts.Alone()), g.exposed.services.Address()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := address.Parse(r.Host); ok {
			own.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// splitServices serves services over plain HTTP on a listener of TLS, where that is switched on.
func (g *Gateway) splitServices(l net.Listener) net.Listener {
	if !g.cfg.Services.Loopback || g.cfg.TLS.Certificate == "" {
		return l
	}
	return servicehost.NewSplit(l, g.callback.HTTP(g.exposed.hosts.Alone()), g.log)
}

// runServices starts the loops that end what has nothing to live on any more.
func (g *Gateway) runServices(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return ignoreCanceled(ctx, g.exposed.services.Run(ctx)) })
	group.Go(func() error { return ignoreCanceled(ctx, g.exposed.hosts.Run(ctx)) })
}

func (e *exposed) close() {
	if e.hosts != nil {
		e.hosts.Close()
	}
}

// pathServices stands for all paths of all services.
const pathServices = "sandbox_service"

// served counts requests to services by their answer.
func (m *metrics) served(status int) {
	m.http.WithLabelValues(pathServices, statusLabel(status)).Inc()
}

// ReasonServiceHost is the reason of the refusal of calls to the host of a service.
const ReasonServiceHost = "SERVICE_HOST"

// ofService refuses a call that was made to the host of a service. A page there is a sandbox's, and of the same origin as
// such a call: it could use what a browser shows by itself, a certificate or nothing at all where that is enough.
func (e *exposed) ofService(ctx context.Context) error {
	for _, authority := range metadata.ValueFromIncomingContext(ctx, ":authority") {
		name, ok := e.services.Address().Parse(authority)
		if !ok {
			continue
		}
		r := audit.Record{
			Time: time.Now(), Actor: (*principal.Principal)(nil).Actor(), ActorKind: principal.Anonymous.String(), Action: servicehost.ActionRequest,
			Target: name.String(), Verdict: audit.Denied, Reason: ReasonServiceHost, RequestID: callinfo.NewRequestID(),
		}
		if p, ok := listener.Peer(ctx); ok {
			if tcp, ok := p.Addr.(*net.TCPAddr); ok {
				r.Remote = tcp.IP.String()
			}
		}
		e.recorder.Record(r)
		return door.Status(fault.New(fault.PermissionDenied, ReasonServiceHost, "this is the host of a service in a sandbox, not the gateway's").
			WithNext("call the gateway by its own name"), r.RequestID)
	}
	return nil
}

// unary and stream keep calls away from the hosts of services. They come before the door.
func (e *exposed) unary(ctx context.Context, message any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := e.ofService(ctx); err != nil {
		return nil, err
	}
	return next(ctx, message)
}

func (e *exposed) stream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := e.ofService(stream.Context()); err != nil {
		return err
	}
	return next(server, stream)
}
