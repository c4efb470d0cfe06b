package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/servicehost"
)

// exposed is what keeps and what serves the services of sandboxes.
type exposed struct {
	services *service.Service
	hosts    *servicehost.Handler
}

// openServices builds the services of sandboxes.
func (g *Gateway) openServices() (*service.Service, error) {
	c := g.cfg.Services
	services, err := service.New(service.Config{
		Store: g.store, Access: g.identity.rules, Sandboxes: g.sandboxes, Logger: g.log,
		Address: service.Address{Secure: c.Secure, Port: c.Port, Domains: c.Domains},
	})
	if err != nil {
		return nil, fmt.Errorf("open the services of sandboxes: %w", err)
	}
	g.exposed.services = services
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
