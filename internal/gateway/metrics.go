package gateway

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/wstunnel"
)

// metrics is the gateway's own registry. Labels come from closed sets only: method names of the contract, gRPC codes,
// names of the two drivers.
type metrics struct {
	registry *prometheus.Registry
	// runtime makes the collectors of the Go runtime and the process, which take longer to make than a gateway
	// without anybody who asks for them takes to start.
	runtime  func() prometheus.Gatherer
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	driver   *prometheus.HistogramVec
	ready    *prometheus.GaugeVec
	refused  *prometheus.CounterVec
	away     *prometheus.CounterVec
	http     *prometheus.CounterVec
	keys     *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	keyAge   *prometheus.GaugeVec
	// issuers tells how old each issuer's keys are.
	issuers func() []oidc.Status
	// verified holds the series of tokens, which every call counts in, without a look-up of labels.
	verified sync.Map
	// methods holds what each method of the contract counts, so that a call looks up no labels.
	methods map[string]*methodMetrics
	// changed receives a value when a driver has come or gone.
	changed chan struct{}
}

// methodMetrics are the series of one method, made when the method is first called and a code first occurs.
type methodMetrics struct {
	duration atomic.Pointer[prometheus.Observer]
	codes    [codes.Unauthenticated + 1]atomic.Pointer[prometheus.Counter]
}

func newMetrics(sessions, relays, sandboxes func() int) *metrics {
	m := &metrics{
		methods:  map[string]*methodMetrics{},
		changed:  make(chan struct{}, 1),
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "openshell_server_grpc_requests_total", Help: "Finished calls by method and gRPC code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "openshell_server_grpc_request_duration_seconds", Help: "Duration of calls by method.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"method"}),
		driver: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_driver_call_duration_seconds", Help: "Duration of calls to drivers.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30},
		}, []string{"driver", "method", "code"}),
		ready: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_driver_connected", Help: "1 while the driver is connected.",
		}, []string{"driver"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_limited_total", Help: "Calls that a rate limit refused, by class; failed: only known credentials were looked at.",
		}, []string{"class"}),
		keyAge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sallyport_oidc_key_age_seconds", Help: "Time since an issuer last confirmed its keys.",
		}, []string{"issuer"}),
		http: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "openshell_server_http_requests_total", Help: "Answered HTTP requests by path and status.",
		}, []string{"path", "status"}),
		away: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_connections_refused_total", Help: "Connections that were closed before they were served, by reason.",
		}, []string{"reason"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_oidc_key_fetches_total", Help: "Fetches of an issuer's keys by result.",
		}, []string{"issuer", "result"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_oidc_tokens_total", Help: "Tokens of users by issuer and result: accepted, remembered, or the reason of the refusal.",
		}, []string{"issuer", "result"}),
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.driver, m.ready, m.refused, m.away, m.http, m.keys, m.tokens, m.keyAge,
		gauge("sallyport_supervisor_sessions", "Connected supervisors.", sessions),
		gauge("sallyport_relays", "Open relays.", relays),
		gauge("sallyport_sandboxes", "Stored sandboxes.", sandboxes),
	)
	m.runtime = sync.OnceValue(func() prometheus.Gatherer {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		return registry
	})
	return m
}

// Gather implements prometheus.Gatherer.
func (m *metrics) Gather() ([]*dto.MetricFamily, error) {
	if m.issuers != nil {
		m.keyAge.Reset()
		for _, s := range m.issuers() {
			if !s.Confirmed.IsZero() {
				m.keyAge.WithLabelValues(s.Name).Set(time.Since(s.Confirmed).Seconds())
			}
		}
	}
	return prometheus.Gatherers{m.registry, m.runtime()}.Gather()
}

// know prepares the series of the methods, which Observe counts under their own names; all others are one. It is
// called before the first call.
func (m *metrics) know(methods []string) {
	for _, name := range append(methods, door.UnknownMethod) {
		m.methods[name] = &methodMetrics{}
	}
}

// Observe implements the door's observer.
func (m *metrics) Observe(method string, code codes.Code, took time.Duration) {
	series := m.methods[method]
	if series == nil {
		method = door.UnknownMethod
		series = m.methods[method]
	}
	if int(code) >= len(series.codes) {
		code = codes.Unknown
	}
	slot := &series.codes[code]
	counter := slot.Load()
	if counter == nil {
		made := m.requests.WithLabelValues(method, code.String())
		slot.Store(&made)
		counter = &made
	}
	(*counter).Inc()
	duration := series.duration.Load()
	if duration == nil {
		made := m.duration.WithLabelValues(method)
		series.duration.Store(&made)
		duration = &made
	}
	(*duration).Observe(took.Seconds())
}

// limited counts what a rate limit refused.
func (m *metrics) limited(class ratelimit.Class) { m.refused.WithLabelValues(class.String()).Inc() }

// turnedAway counts connections that were not served.
func (m *metrics) turnedAway(why listener.Refusal) { m.away.WithLabelValues(string(why)).Inc() }

// connected counts SSH connections by their answer.
func (m *metrics) connected(status int) {
	m.http.WithLabelValues(sshconnect.Path, strconv.Itoa(status)).Inc()
}

// outOfScope counts what was refused at addresses that serve sandboxes alone.
func (m *metrics) outOfScope(method string) {
	m.requests.WithLabelValues(method, codes.PermissionDenied.String()).Inc()
}

// tunnelRefused counts WebSocket tunnels that were not opened.
func (m *metrics) tunnelRefused(why wstunnel.Refusal) {
	m.away.WithLabelValues("tunnel_" + string(why)).Inc()
}

// KeysFetched implements oidc.Observer.
func (m *metrics) KeysFetched(issuer, result string) { m.keys.WithLabelValues(issuer, result).Inc() }

// Verified implements oidc.Observer.
func (m *metrics) Verified(issuer, result string) {
	key := [2]string{issuer, result}
	counter, ok := m.verified.Load(key)
	if !ok {
		counter, _ = m.verified.LoadOrStore(key, m.tokens.WithLabelValues(issuer, result))
	}
	counter.(prometheus.Counter).Inc() //nolint:forcetypeassert // Nothing else is stored.
}

// DriverCall implements driver.Metrics.
func (m *metrics) DriverCall(driver, method, code string, took time.Duration) {
	m.driver.WithLabelValues(driver, method, code).Observe(took.Seconds())
}

// DriverReady implements driver.Metrics.
func (m *metrics) DriverReady(driver string, ready bool) {
	v := 0.0
	if ready {
		v = 1
	}
	m.ready.WithLabelValues(driver).Set(v)
	select {
	case m.changed <- struct{}{}:
	default:
	}
}
