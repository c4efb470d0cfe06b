package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	probeInterval = 5 * time.Second
	probeTimeout  = 2 * time.Second
)

// check is the state of one thing that the gateway needs.
type check struct {
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
}

// readiness is probed in the background, so that a probe from outside costs nothing and cannot pile up.
type readiness struct {
	probes  map[string]func(context.Context) error
	version string
	health  *health.Server
	// poke asks for a probe at once.
	poke  <-chan struct{}
	state atomic.Pointer[report]
	// observe is told of each probe; nil is nobody.
	observe func(name string, err error, took time.Duration)
}

type report struct {
	Status  string           `json:"status"`
	Version string           `json:"version"`
	Checks  map[string]check `json:"checks"`
	err     error
}

func newReadiness(version string, server *health.Server, poke <-chan struct{}, probes map[string]func(context.Context) error) *readiness {
	r := &readiness{probes: probes, version: version, health: server, poke: poke}
	r.state.Store(&report{Status: "unhealthy", Version: version, Checks: map[string]check{}, err: errStarting})
	server.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	return r
}

// Run probes until ctx ends.
func (r *readiness) Run(ctx context.Context) error {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	fast := time.NewTicker(200 * time.Millisecond)
	defer fast.Stop()
	for {
		r.probe(ctx)
		// While something is missing, look more often: start-up shall not wait for the slow rhythm.
		wait := ticker.C
		if r.Err() != nil {
			wait = fast.C
		}
		select {
		case <-ctx.Done():
			r.health.Shutdown()
			return nil
		case <-r.poke:
		case <-wait:
		}
	}
}

// errAbsent is what a probe returns of something that the gateway does not have at the moment.
var errAbsent = errors.New("absent")

func (r *readiness) probe(ctx context.Context) {
	next := &report{Status: "healthy", Version: r.version, Checks: map[string]check{}}
	for name, probe := range r.probes {
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		began := time.Now()
		err := probe(pctx)
		cancel()
		if errors.Is(err, errAbsent) {
			continue
		}
		if r.observe != nil {
			r.observe(name, err, time.Since(began))
		}
		c := check{Status: "healthy"}
		if err != nil {
			c = check{Status: "unhealthy", Error: publicText(err)}
			next.Status, next.err = "unhealthy", err
		}
		next.Checks[name] = c
	}
	serving := healthpb.HealthCheckResponse_SERVING
	if next.err != nil {
		serving = healthpb.HealthCheckResponse_NOT_SERVING
	}
	r.health.SetServingStatus("", serving)
	r.state.Store(next)
}

// Err is why the gateway is not ready, nil if it is.
func (r *readiness) Err() error { return r.state.Load().err }

// handler serves liveness and readiness.
func (r *readiness) handler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	ready := func(w http.ResponseWriter, _ *http.Request) {
		state := r.state.Load()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if state.err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		// The client that went away is the only one who could miss it.
		_ = json.NewEncoder(w).Encode(state)
	}
	mux.HandleFunc("GET /readyz", ready)
	mux.HandleFunc("GET /health", ready)
	return mux
}
