package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// web answers plain HTTP on the main port. Health is served there too: clients of the older generation probe it.
func (g *Gateway) web() http.Handler {
	mux := g.readiness.handler()
	g.wellKnown(mux)
	mux.HandleFunc("GET /auth/oidc-config", func(w http.ResponseWriter, _ *http.Request) {
		if len(g.cfg.Issuers) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// The client that went away is the only one who could miss it.
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": g.cfg.Issuers[0].Issuer, "audience": g.cfg.Issuers[0].Audiences[0]})
	})
	return http.MaxBytesHandler(mux, 1<<20)
}

// sideServer is a plaintext server of its own for health or metrics.
type sideServer struct {
	server   *http.Server
	listener net.Listener
}

func (g *Gateway) sideListeners() ([]*sideServer, error) {
	metricsMux := http.NewServeMux()
	metricsMux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics, promhttp.HandlerOpts{}))
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
