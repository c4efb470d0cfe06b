package gateway

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/wstunnel"
)

// maxScrapes bounds the scrapes that run at the same time: each looks at every sandbox.
const maxScrapes = 4

// metrics is the gateway's own registry: it counts what happens, and asks about what is when it is scraped. Labels
// come from closed sets and the configuration only; see catalog.
type metrics struct {
	registry *prometheus.Registry
	// runtime makes the collectors of the Go runtime and the process, which take longer to make than a gateway
	// without anybody who asks for them takes to start.
	runtime func() prometheus.Gatherer

	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	http     *prometheus.CounterVec
	pages    *prometheus.HistogramVec
	driver   *prometheus.HistogramVec
	ready    *prometheus.GaugeVec
	healthy  prometheus.Gauge
	probes   *prometheus.HistogramVec
	refused  *prometheus.CounterVec
	away     *prometheus.CounterVec
	keys     *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	attempts *prometheus.CounterVec
	commits  *prometheus.HistogramVec
	writes   prometheus.Observer
	reloads  *prometheus.CounterVec
	stale    prometheus.Gauge

	// verified and attempted hold the series that every call counts in.
	verified, attempted counters
	committed           prometheus.Observer
	// methods holds what each method of the contract counts, so that a call looks up no labels.
	methods map[string]*methodMetrics
	// changed receives a value when a driver has come or gone, or when settings have changed.
	changed chan struct{}
	// scrape asks about what is; nil until there is something to ask.
	scrape atomic.Pointer[scrape]
}

// methodMetrics are the series of one method, made when a code first occurs.
type methodMetrics struct {
	service, method string
	codes           [codes.Unauthenticated + 1]atomic.Pointer[codeMetrics]
}

type codeMetrics struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// newMetrics returns the registry of a gateway of the given version.
func newMetrics(version string) *metrics {
	m := &metrics{
		methods:  map[string]*methodMetrics{},
		changed:  make(chan struct{}, 1),
		registry: prometheus.NewRegistry(),
		requests: counterVec(nameRequests),
		duration: histogramVec(nameDuration),
		http:     counterVec("openshell_server_http_requests_total"),
		pages:    histogramVec("openshell_server_http_request_duration_seconds"),
		probes:   histogramVec("openshell_server_readiness_database_probe_duration_seconds"),
		ready:    gaugeVec("sallyport_ready"),
		driver:   histogramVec("sallyport_driver_call_duration_seconds"),
		refused:  counterVec("sallyport_limited_total"),
		away:     counterVec("sallyport_connections_refused_total"),
		keys:     counterVec("sallyport_oidc_key_fetches_total"),
		tokens:   counterVec("sallyport_oidc_tokens_total"),
		attempts: counterVec("sallyport_authentications_total"),
		commits:  histogramVec("sallyport_store_commit_duration_seconds"),
		reloads:  counterVec("sallyport_config_reloads_total"),
	}
	healthy := gaugeVec("openshell_server_readiness_database_healthy")
	writes := histogramVec("sallyport_store_commit_writes")
	stale := gaugeVec("sallyport_config_refused")
	build := gaugeVec("sallyport_build_info")
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.healthy, m.writes, m.stale = healthy.WithLabelValues(), writes.WithLabelValues(), stale.WithLabelValues()
	m.committed = m.commits.WithLabelValues("ok")
	// What an alert watches is there before it happens: the first time would be no increase otherwise.
	m.commits.WithLabelValues("error")
	for _, result := range []string{"applied", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	for c := ratelimit.Anonymous; c.String() != "unknown"; c++ {
		m.refused.WithLabelValues(c.String())
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.http, m.pages, m.probes, m.ready, m.driver, m.refused, m.away, m.keys, m.tokens, m.attempts,
		m.commits, m.reloads, healthy, writes, stale, build, newAtScrape(m),
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
	return prometheus.Gatherers{m.registry, m.runtime()}.Gather()
}

// handler serves scrapes.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// know prepares the series of the methods, which Observe counts under their own names; all others are one. It is
// called before the first call.
func (m *metrics) know(methods []string) {
	for _, name := range methods {
		service, method, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
		m.methods[name] = &methodMetrics{service: service, method: method}
	}
	m.methods[door.UnknownMethod] = &methodMetrics{service: door.UnknownMethod, method: door.UnknownMethod}
}

// Observe implements the door's observer.
func (m *metrics) Observe(method string, code codes.Code, took time.Duration) {
	c := m.of(method, code)
	c.requests.Inc()
	c.duration.Observe(took.Seconds())
}

// of finds the series of a method and a code, and makes them when they are needed first.
func (m *metrics) of(method string, code codes.Code) *codeMetrics {
	known := m.methods[method]
	if known == nil {
		known = m.methods[door.UnknownMethod]
	}
	if int(code) >= len(known.codes) {
		code = codes.Unknown
	}
	slot := &known.codes[code]
	c := slot.Load()
	if c == nil {
		text := strconv.Itoa(int(code))
		c = &codeMetrics{
			requests: m.requests.WithLabelValues(known.service, known.method, text),
			duration: m.duration.WithLabelValues(known.service, known.method, text),
		}
		slot.Store(c)
	}
	return c
}

// limited counts what a rate limit refused.
func (m *metrics) limited(class ratelimit.Class) { m.refused.WithLabelValues(class.String()).Inc() }

// turnedAway counts connections that were not served.
func (m *metrics) turnedAway(why listener.Refusal) { m.away.WithLabelValues(string(why)).Inc() }

// connected counts SSH connections by their answer.
func (m *metrics) connected(status int) {
	m.http.WithLabelValues(sshconnect.Path, statusLabel(status)).Inc()
}

// outOfScope counts what was refused at addresses that serve sandboxes alone.
func (m *metrics) outOfScope(method string) { m.of(method, codes.PermissionDenied).requests.Inc() }

// tunnelRefused counts WebSocket tunnels that were not opened.
func (m *metrics) tunnelRefused(why wstunnel.Refusal) {
	m.away.WithLabelValues("tunnel_" + string(why)).Inc()
}

// KeysFetched implements oidc.Observer.
func (m *metrics) KeysFetched(issuer, result string) { m.keys.WithLabelValues(issuer, result).Inc() }

// Verified implements oidc.Observer.
func (m *metrics) Verified(issuer, result string) { m.verified.of(m.tokens, issuer, result).Inc() }

// committedBatch counts what the store commits.
func (m *metrics) committedBatch(c store.Commit) {
	m.writes.Observe(float64(c.Transactions))
	if c.Err != nil {
		m.commits.WithLabelValues("error").Observe(c.Took.Seconds())
		return
	}
	m.committed.Observe(c.Took.Seconds())
}

// DriverCall implements driver.Metrics. A driver may answer with a code that does not exist.
func (m *metrics) DriverCall(driver, method, code string, took time.Duration) {
	if strings.HasPrefix(code, "Code(") {
		code = codes.Unknown.String()
	}
	m.driver.WithLabelValues(driver, method, code).Observe(took.Seconds())
}

// DriverReady implements driver.Metrics.
func (m *metrics) DriverReady(string, bool) {
	m.poke()
}

// poke has readiness looked at now.
func (m *metrics) poke() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// counters are the series of a vector with two labels that are counted in often, found without an allocation.
type counters struct {
	mu    sync.Mutex
	found atomic.Pointer[map[[2]string]prometheus.Counter]
}

// of returns the counter with these two labels.
func (c *counters) of(vec *prometheus.CounterVec, a, b string) prometheus.Counter {
	key := [2]string{a, b}
	if known := c.found.Load(); known != nil {
		if counter := (*known)[key]; counter != nil {
			return counter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[[2]string]prometheus.Counter{}
	if known := c.found.Load(); known != nil {
		maps.Copy(next, *known)
	}
	next[key] = vec.WithLabelValues(a, b)
	c.found.Store(&next)
	return next[key]
}

// probed counts a probe of readiness. A gateway that ends probes nothing any more.
func (m *metrics) probed(name string, err error, took time.Duration) {
	m.ready.WithLabelValues(name).Set(truth(err == nil))
	if name != "database" {
		return
	}
	m.healthy.Set(truth(err == nil))
	outcome := "success"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		outcome = "timeout"
	case err != nil:
		outcome = "db_error"
	}
	m.probes.WithLabelValues(outcome).Observe(took.Seconds())
}

// reloaded counts a change of the configuration, or of the files it names.
func (m *metrics) reloaded(err error) {
	result := "applied"
	if err != nil {
		result = "refused"
	}
	m.reloads.WithLabelValues(result).Inc()
	m.stale.Set(truth(err != nil))
}
