package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"sallyport.dev/sallyport/internal/servicehost"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/web"
	"sallyport.dev/sallyport/internal/wstunnel"
)

// maxBody bounds the body of a plain HTTP request in bytes; none of the pages takes one.
const maxBody = 1 << 20

// web answers plain HTTP on the main port. Health is served there too: clients of the older generation probe it.
func (g *Gateway) web() (http.Handler, error) {
	mux := g.readiness.handler()
	g.wellKnown(mux)
	edge, policy := g.cfg.Edge, g.site
	pages := web.Handler(web.Config{
		Connect: edge.Connect, Site: policy, Address: g.cfg.Listen.Address.String(), Version: g.opts.Version, Logger: g.log,
		OIDC: func() web.OIDC {
			issuers := g.inForce.Load().Issuers
			if len(issuers) == 0 {
				return web.OIDC{}
			}
			return web.OIDC{Issuer: issuers[0].Issuer, Audience: issuers[0].Audiences[0]}
		},
	})
	mux.Handle(web.PathOIDCConfig, pages)
	mux.Handle(web.PathConnect, pages)
	mux.Handle(sshconnect.Path, g.connect)
	if err := g.openHosts(); err != nil {
		return nil, err
	}
	mux.Handle(servicehost.PathLink, g.exposed.hosts.Links())
	limited := http.MaxBytesHandler(mux, maxBody)
	if !edge.Tunnel {
		return limited, nil
	}
	g.tunnels = wstunnel.New(wstunnel.Config{
		Port: func() wstunnel.Port { return g.port }, Site: policy, Logger: g.log, Refused: g.metrics.tunnelRefused,
	})
	outer := http.NewServeMux()
	outer.Handle(wstunnel.Path, g.tunnels)
	outer.Handle("/", limited)
	return outer, nil
}

// foreign tells calls of other sites' pages where a browser shows by itself what is enough to be let in: a certificate, or
// nothing. A page that needs a token has none of another site, and may come from wherever it is served.
func (g *Gateway) foreign(r *http.Request) bool {
	if !g.cfg.Auth.AllowUnauthenticated && !g.cfg.MTLS.Enabled {
		return false
	}
	return !g.site.Host(r) || !g.site.Origin(r)
}

// sideServer is a plaintext server of its own for health or metrics.
type sideServer struct {
	server   *http.Server
	listener net.Listener
}

func (g *Gateway) sideListeners() ([]*sideServer, error) {
	metricsMux := http.NewServeMux()
	metricsMux.Handle("GET /metrics", g.metrics.handler())
	var out []*sideServer
	for _, s := range []struct {
		addr    netip.AddrPort
		handler http.Handler
	}{{g.cfg.Listen.Health, g.readiness.handler()}, {g.cfg.Listen.Metrics, metricsMux}} {
		if !s.addr.IsValid() {
			continue
		}
		l, err := net.Listen("tcp", s.addr.String())
		if err != nil {
			for _, open := range out {
				open.listener.Close()
			}
			return nil, fmt.Errorf("listen for health or metrics: %w", err)
		}
		out = append(out, &sideServer{listener: l, server: &http.Server{
			Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		}})
	}
	return out, nil
}

func (s *sideServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.server.Close() })
	defer stop()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
