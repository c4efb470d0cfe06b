package tracing

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"time"

	"sallyport.dev/sallyport/internal/tracecontext"
)

// Defaults of Config, those of OpenTelemetry.
const (
	DefaultDelay    = 5 * time.Second
	DefaultTimeout  = 10 * time.Second
	DefaultMaxQueue = 2048
	DefaultMaxBatch = 512
)

// Config says where spans go. Endpoint is required.
type Config struct {
	// Endpoint is the collector: http://host:port without TLS, https://host:port with it. The port is 4317 if it is left
	// out.
	Endpoint string
	// CAFile is a PEM file of the only authorities that may vouch for the collector; empty means the system's.
	CAFile string
	// Service, Version and Instance name the process; Attributes say more of it.
	Service, Version, Instance string
	Attributes                 map[string]string
	// Headers are sent along, for collectors that want a credential.
	Headers map[string]string
	// Timeout bounds one export with its repetitions, Delay is the time between two of them.
	Timeout, Delay time.Duration
	// MaxQueue bounds the spans that wait, MaxBatch those of one export.
	MaxQueue, MaxBatch int
	// Sampler chooses traces; the zero Sampler records all that nobody else has decided about.
	Sampler Sampler
	// Logger is told when the collector goes and comes; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// New returns a tracer. Run does the sending. It fails on an endpoint that is no URL and on authorities that cannot be
// read; a collector that is away is no failure.
func New(c Config) (*Tracer, error) {
	c.fill()
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("set up tracing: the endpoint must be an http or https URL without a user, such as http://collector:4317")
	}
	e, err := newExporter(c, u)
	if err != nil {
		return nil, fmt.Errorf("set up tracing: %w", err)
	}
	return &Tracer{c: c, exporter: e, wake: make(chan struct{}, 1)}, nil
}

func (c *Config) fill() {
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Delay <= 0 {
		c.Delay = DefaultDelay
	}
	if c.MaxQueue <= 0 {
		c.MaxQueue = DefaultMaxQueue
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = DefaultMaxBatch
	}
	c.MaxBatch = min(c.MaxBatch, c.MaxQueue)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Sampler decides which traces are recorded.
type Sampler struct {
	// Alone decides by the ratio even where whoever called has decided already.
	Alone bool
	// Some makes Ratio count: the part of traces that are recorded, from 0 to 1. Without it all are.
	Some  bool
	Ratio float64
}

// NewSampler returns a sampler by the names of OpenTelemetry: always_on, always_off, traceidratio, and each with
// "parentbased_" before it, which then decides only about traces that begin here. ratio counts for traceidratio.
func NewSampler(name string, ratio float64) (Sampler, error) {
	if math.IsNaN(ratio) || ratio < 0 || ratio > 1 {
		return Sampler{}, fmt.Errorf("the sampler's ratio must be from 0 to 1")
	}
	switch name {
	case "", "parentbased_always_on":
		return Sampler{}, nil
	case "parentbased_always_off":
		return Sampler{Some: true}, nil
	case "parentbased_traceidratio":
		return Sampler{Some: true, Ratio: ratio}, nil
	case "always_on":
		return Sampler{Alone: true}, nil
	case "always_off":
		return Sampler{Alone: true, Some: true}, nil
	case "traceidratio":
		return Sampler{Alone: true, Some: true, Ratio: ratio}, nil
	}
	return Sampler{}, fmt.Errorf("unknown sampler %q", name)
}

// sample decides by the id, so that all processes of a trace that use one ratio decide alike.
func (s Sampler) sample(id [16]byte, parent tracecontext.Context, below bool) bool {
	if below && !s.Alone {
		return parent.Sampled
	}
	if !s.Some {
		return true
	}
	return float64(binary.BigEndian.Uint64(id[8:])>>1) < s.Ratio*(1<<63)
}
