package gateway

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/export"
	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/servicehost"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/tlsfiles"
	"sallyport.dev/sallyport/internal/tracing"
)

// scrape holds whom a scrape asks. What a gateway does not have is nil.
type scrape struct {
	relays       *relay.Registry
	sandboxes    *sandbox.Service
	store        *store.Store
	issuers      *oidc.Issuers
	tokens       *sandboxtoken.Issuer
	conns        []*driver.Conn
	audit        *audit.Log
	export       *export.OTLP
	certificates func() []tlsfiles.Certificate
	tracer       *tracing.Tracer
	hosts        *servicehost.Handler
}

// observe lets scrapes ask about everything that was built.
func (g *Gateway) observe() {
	g.metrics.scrape.Store(&scrape{
		relays: g.relays, sandboxes: g.sandboxes, store: g.store, issuers: g.identity.issuers, tokens: g.identity.tokens,
		conns: g.conns, audit: g.auditLog, export: g.exporter, tracer: g.tracer, hosts: g.exposed.hosts,
		certificates: func() []tlsfiles.Certificate {
			if bundle := g.certificates.Load(); bundle != nil {
				return bundle.Expiry()
			}
			return nil
		},
	})
}

// atScrape is the collector of what is asked for when it is wanted.
type atScrape struct {
	m *metrics
	// descs are made with the first scrape: a gateway that nobody asks starts without them.
	descs func() map[string]described
}

// described is a series of the catalog as the library needs it.
type described struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newAtScrape(m *metrics) *atScrape {
	return &atScrape{m: m, descs: sync.OnceValue(func() map[string]described {
		out := make(map[string]described, len(scraped))
		for _, name := range scraped {
			s := find(name)
			d := described{desc: prometheus.NewDesc(s.name, s.help, s.labels, nil), kind: prometheus.GaugeValue}
			if s.kind == counter {
				d.kind = prometheus.CounterValue
			}
			out[name] = d
		}
		return out
	})}
}

// scraped are the series that atScrape makes.
var scraped = []string{
	"sallyport_oidc_key_age_seconds", "sallyport_oidc_keys", "sallyport_oidc_ready",
	"sallyport_sandboxes", "sallyport_sandboxes_unfinished", "sallyport_reconcile_lag_seconds",
	"sallyport_supervisor_sessions", "sallyport_supervisor_sessions_opened_total", "sallyport_supervisor_sessions_ended_total",
	"sallyport_relays", "sallyport_relays_waiting", "sallyport_relays_opened_total", "sallyport_relays_ended_total",
	"sallyport_relay_bytes_total", "sallyport_sandbox_token_keys", "sallyport_service_requests", "sallyport_service_sessions",
	"sallyport_driver_connected", "sallyport_driver_suspended", "sallyport_driver_connections_total",
	"sallyport_driver_calls_running", "sallyport_driver_calls_waiting",
	"sallyport_store_queue", "sallyport_database_bytes", "sallyport_database_connections",
	"sallyport_database_connections_max", "sallyport_database_waits_total",
	"sallyport_audit_records_total", "sallyport_audit_lost_total", "sallyport_audit_queue", "sallyport_audit_failing",
	"sallyport_audit_export_lag", "sallyport_audit_export_failing",
	"sallyport_certificate_expiry_timestamp_seconds", "sallyport_trace_spans_total",
}

// Describe implements prometheus.Collector. It describes nothing, which the library takes to mean that what is collected
// is to be checked then.
func (a *atScrape) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (a *atScrape) Collect(out chan<- prometheus.Metric) {
	s := a.m.scrape.Load()
	if s == nil {
		return
	}
	descs := a.descs()
	put := func(name string, value float64, labels ...string) {
		d := descs[name]
		m, err := prometheus.NewConstMetric(d.desc, d.kind, value, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d.desc, err)
		}
		out <- m
	}
	s.people(put)
	s.boxes(put)
	s.drivers(put)
	s.database(put)
	s.operation(put)
}

// putter adds one value to a scrape.
type putter func(name string, value float64, labels ...string)

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *scrape) people(put putter) {
	for _, issuer := range s.issuers.Status() {
		if !issuer.Confirmed.IsZero() {
			put("sallyport_oidc_key_age_seconds", time.Since(issuer.Confirmed).Seconds(), issuer.Name)
		}
		put("sallyport_oidc_keys", float64(issuer.Keys), issuer.Name)
		put("sallyport_oidc_ready", truth(issuer.NotReady == nil), issuer.Name)
	}
	put("sallyport_sandbox_token_keys", float64(len(s.tokens.KeyIDs())))
}

func (s *scrape) boxes(put putter) {
	census := s.sandboxes.Census()
	for phase, n := range census.Phases {
		if p := sandbox.Phase(phase); p != sandbox.PhaseUnspecified {
			put("sallyport_sandboxes", float64(n), p.String())
		}
	}
	put("sallyport_sandboxes_unfinished", float64(census.Creating), "create")
	put("sallyport_sandboxes_unfinished", float64(census.Deleting), "delete")
	put("sallyport_sandboxes_unfinished", float64(census.Stopping), "stop")
	put("sallyport_sandboxes_unfinished", float64(census.Starting), "start")
	put("sallyport_reconcile_lag_seconds", census.Oldest.Seconds())
	put("sallyport_supervisor_sessions", float64(s.relays.Sessions()))
	put("sallyport_relays", float64(s.relays.Relays()))
	r := s.relays.Stats()
	put("sallyport_supervisor_sessions_opened_total", float64(r.SessionsOpened))
	for end, n := range r.SessionsEnded {
		put("sallyport_supervisor_sessions_ended_total", float64(n), relay.SessionEnd(end).String())
	}
	put("sallyport_relays_waiting", float64(r.Waiting))
	put("sallyport_relays_opened_total", float64(r.RelaysOpened))
	for end, n := range r.RelaysEnded {
		put("sallyport_relays_ended_total", float64(n), relay.ChannelEnd(end).String())
	}
	put("sallyport_relay_bytes_total", float64(r.Sent), "to_sandbox")
	put("sallyport_relay_bytes_total", float64(r.Received), "from_sandbox")
	put("sallyport_service_requests", float64(s.hosts.Open()))
	put("sallyport_service_sessions", float64(s.hosts.Sessions()))
}

func (s *scrape) drivers(put putter) {
	for _, c := range s.conns {
		state := c.State()
		put("sallyport_driver_connected", truth(state.Connected), c.Name())
		put("sallyport_driver_suspended", truth(state.Suspended), c.Name())
		put("sallyport_driver_connections_total", float64(state.Connections), c.Name())
		put("sallyport_driver_calls_running", float64(state.Running), c.Name())
		put("sallyport_driver_calls_waiting", float64(state.Waiting), c.Name())
	}
}

func (s *scrape) database(put putter) {
	put("sallyport_store_queue", float64(s.store.Queued()))
	m, ok := s.store.Measure()
	if !ok {
		return
	}
	if m.DataBytes > 0 {
		put("sallyport_database_bytes", float64(m.DataBytes), "data")
		put("sallyport_database_bytes", float64(m.LogBytes), "log")
	}
	put("sallyport_database_connections", float64(m.InUse), "busy")
	put("sallyport_database_connections", float64(m.Connections-m.InUse), "idle")
	put("sallyport_database_connections_max", float64(m.MaxConnections))
	put("sallyport_database_waits_total", float64(m.Waited))
}

func (s *scrape) operation(put putter) {
	if s.audit != nil {
		a := s.audit.Stats()
		put("sallyport_audit_records_total", float64(a.Records))
		put("sallyport_audit_lost_total", float64(a.Lost))
		put("sallyport_audit_queue", float64(a.Waiting))
		put("sallyport_audit_failing", truth(a.Failing))
		if s.export != nil {
			// What was read first is the smaller one, so that the difference is never negative.
			sent := s.export.Sent()
			put("sallyport_audit_export_lag", float64(s.audit.Last()-min(sent, s.audit.Last())))
			put("sallyport_audit_export_failing", truth(s.export.Err() != nil))
		}
	}
	for _, c := range s.certificates() {
		put("sallyport_certificate_expiry_timestamp_seconds", float64(c.NotAfter.Unix()), c.Path)
	}
	if s.tracer != nil {
		t := s.tracer.Stats()
		put("sallyport_trace_spans_total", float64(t.Exported), "exported")
		put("sallyport_trace_spans_total", float64(t.Dropped), "dropped")
		put("sallyport_trace_spans_total", float64(t.Failed), "failed")
	}
}
