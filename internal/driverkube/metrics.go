package driverkube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sallyport.dev/sallyport/internal/fault"
)

// collector reads its values when it is asked. Every label has a fixed set of values.
type collector struct {
	d                         *Driver
	sandboxes, events, stream *prometheus.Desc
	ready                     *prometheus.Desc
}

func newCalls() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_driver_kubernetes_call_failures_total", Help: "Failed calls of the gateway by method and reason.",
	}, []string{"method", "reason"})
}

func newCollector(d *Driver) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sallyport_driver_kubernetes_"+name, help, labels, nil)
	}
	return &collector{
		d:         d,
		sandboxes: desc("sandboxes", "Sandboxes by what is told of them: ready, starting, stopped, deleting or failed.", "state"),
		events:    desc("events_total", "Events of Kubernetes about sandboxes."),
		stream:    desc("stream_following", "Whether a kind of objects is followed: 1, or 0 while it cannot be.", "stream"),
		ready:     desc("ready", "Whether the driver can do its work."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.sandboxes, c.events, c.stream, c.ready} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	states, events := c.d.mirror.Counts()
	for state, n := range states {
		gauge(c.sandboxes, float64(n), state)
	}
	out <- prometheus.MustNewConstMetric(c.events, prometheus.CounterValue, float64(events))
	for name, trouble := range c.d.mirror.Trouble() {
		gauge(c.stream, truth(trouble == nil), name)
	}
	gauge(c.ready, truth(c.d.Ready() == nil))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// serveMetrics serves /metrics, /healthz and /readyz until ctx ends.
func (d *Driver) serveMetrics(ctx context.Context, port uint16) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(d), d.calls, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := d.Ready(); err != nil {
			f := fault.From(err)
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "%s: %s; %s\n", f.Reason, f.Message, f.Next)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return fmt.Errorf("--metrics-port: %w", err)
	}
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
