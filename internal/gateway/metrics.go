package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"
)

// metrics is the gateway's own registry. Labels come from closed sets only: method names of the contract, gRPC codes,
// names of the two drivers.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	driver   *prometheus.HistogramVec
	ready    *prometheus.GaugeVec
}

func newMetrics(sessions, relays, sandboxes func() int) *metrics {
	m := &metrics{
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
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.driver, m.ready,
		gauge("sallyport_supervisor_sessions", "Connected supervisors.", sessions),
		gauge("sallyport_relays", "Open relays.", relays),
		gauge("sallyport_sandboxes", "Stored sandboxes.", sandboxes),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Observe implements the door's metrics.
func (m *metrics) Observe(method string, code codes.Code, took time.Duration) {
	m.requests.WithLabelValues(method, code.String()).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
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
}
