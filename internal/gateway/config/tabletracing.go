package config

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// tracingSettings has the keys of the newer reference and the variables of OpenTelemetry that it honours. Like there,
// OTEL_EXPORTER_OTLP_ENDPOINT does not switch tracing on.
var tracingSettings = []setting{
	{
		name: "otlp-endpoint", env: "SALLYPORT_OTLP_ENDPOINT", file: "gateway.otlp.endpoint", topic: topicTracing, form: webURL,
		usage: "collector that gets traces by OTLP over gRPC, such as http://collector:4317", more: "Switches tracing on. `OTEL_EXPORTER_OTLP_ENDPOINT` does not.",
	},
	{
		name: "otlp-service-name", env: "SALLYPORT_OTLP_SERVICE_NAME", file: "gateway.otlp.service_name", topic: topicTracing, preset: "openshell-gateway",
		usage: "name of the gateway in traces",
	},
	{
		name: "otlp-ca", env: "SALLYPORT_OTLP_CA", file: "gateway.otlp.ca_path", topic: topicTracing, shown: "the system's",
		usage: "PEM authorities of an https collector",
	},
	{name: "otel-traces-sampler", env: "OTEL_TRACES_SAMPLER", topic: topicTracing, noFlag: true, preset: "parentbased_always_on", usage: "which traces are recorded", more: "`always_on`, `always_off`, `traceidratio`, and each with `parentbased_` before it."},
	{name: "otel-traces-sampler-arg", env: "OTEL_TRACES_SAMPLER_ARG", topic: topicTracing, noFlag: true, preset: "1", usage: "ratio of `traceidratio`, from 0 to 1"},
	{name: "otel-resource-attributes", env: "OTEL_RESOURCE_ATTRIBUTES", topic: topicTracing, noFlag: true, usage: "more about the gateway, as key=value,key=value"},
	{name: "otel-headers", env: "OTEL_EXPORTER_OTLP_HEADERS", topic: topicTracing, noFlag: true, secret: true, usage: "headers for the collector, as key=value,key=value"},
	{name: "otel-traces-headers", env: "OTEL_EXPORTER_OTLP_TRACES_HEADERS", topic: topicTracing, noFlag: true, secret: true, usage: "the same, before the other"},
	{name: "otel-timeout", env: "OTEL_EXPORTER_OTLP_TIMEOUT", topic: topicTracing, noFlag: true, preset: "10000", usage: "milliseconds that one export may take"},
	{name: "otel-traces-timeout", env: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", topic: topicTracing, noFlag: true, shown: "`OTEL_EXPORTER_OTLP_TIMEOUT`", usage: "the same, before the other"},
	{name: "otel-compression", env: "OTEL_EXPORTER_OTLP_COMPRESSION", topic: topicTracing, noFlag: true, usage: "accepted; traces are sent as they are", more: "`gzip` is warned about."},
	{name: "otel-traces-compression", env: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", topic: topicTracing, noFlag: true, usage: "the same"},
	{name: "otel-schedule-delay", env: "OTEL_BSP_SCHEDULE_DELAY", topic: topicTracing, noFlag: true, preset: "5000", usage: "milliseconds between two exports"},
	{name: "otel-export-timeout", env: "OTEL_BSP_EXPORT_TIMEOUT", topic: topicTracing, noFlag: true, preset: "30000", usage: "milliseconds that one export may take, if that is less than the above"},
	{name: "otel-max-queue", env: "OTEL_BSP_MAX_QUEUE_SIZE", topic: topicTracing, noFlag: true, preset: "2048", usage: "spans that may wait; more are dropped and counted"},
	{name: "otel-max-batch", env: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", topic: topicTracing, noFlag: true, preset: "512", usage: "spans of one export"},
}

// Tracing says where traces go. Endpoint is empty when it is off; then the rest means nothing.
type Tracing struct {
	Endpoint string
	CAPath   string
	Service  string
	// Sampler is a name of OpenTelemetry's, Ratio its argument.
	Sampler string
	Ratio   float64
	// Attributes say more of the gateway; Headers go to the collector and may be secret.
	Attributes map[string]string
	Headers    map[string]string
	// Timeout bounds one export, Delay is the time between two.
	Timeout, Delay time.Duration
	// MaxQueue and MaxBatch count spans.
	MaxQueue, MaxBatch int
}

// Bounds of what the variables may ask for.
const (
	maxSpans        = 1 << 16
	maxMilliseconds = 3600_000
	maxPairs        = 64
)

func (c *Config) tracing(v *values) {
	if v.text("otlp-endpoint") == "" {
		return
	}
	c.Tracing = Tracing{
		Endpoint: v.text("otlp-endpoint"), CAPath: v.text("otlp-ca"), Service: v.text("otlp-service-name"), Sampler: v.sampler(),
		Attributes: v.pairs("otel-resource-attributes"), Headers: v.pairs("otel-headers"),
		Timeout: v.milliseconds("otel-timeout"), Delay: v.milliseconds("otel-schedule-delay"),
		MaxQueue: v.lenient("otel-max-queue", maxSpans), MaxBatch: v.lenient("otel-max-batch", maxSpans),
	}
	t := &c.Tracing
	t.Ratio = 1
	if ratio, err := strconv.ParseFloat(v.text("otel-traces-sampler-arg"), 64); err == nil && ratio >= 0 && ratio <= 1 {
		t.Ratio = ratio
	} else {
		v.warn("%s must be from 0 to 1; all traces are recorded", v.said("otel-traces-sampler-arg"))
	}
	for key, value := range v.pairs("otel-traces-headers") {
		t.Headers[key] = value
	}
	if v.set("otel-traces-timeout") {
		t.Timeout = v.milliseconds("otel-traces-timeout")
	}
	t.Timeout = min(t.Timeout, v.milliseconds("otel-export-timeout"))
	for _, name := range []string{"otel-compression", "otel-traces-compression"} {
		if word := v.text(name); word != "" && word != "none" {
			v.warn("%s has no effect: traces are sent uncompressed", v.said(name))
		}
	}
}

func (v *values) sampler() string {
	name := v.text("otel-traces-sampler")
	switch strings.TrimPrefix(name, "parentbased_") {
	case "always_on", "always_off", "traceidratio":
		return name
	}
	v.warn("%s: unknown sampler; parentbased_always_on is used", v.said("otel-traces-sampler"))
	return "parentbased_always_on"
}

// lenient reads a number as OpenTelemetry asks for: one that cannot be is warned about, and the default used.
func (v *values) lenient(name string, most int) int {
	if n, err := strconv.Atoi(v.text(name)); err == nil && n > 0 && n <= most {
		return n
	}
	preset, _ := strconv.Atoi(byName(name).preset)
	v.warn("%s must be a number from 1 to %d; the default is used", v.said(name), most)
	return preset
}

func (v *values) milliseconds(name string) time.Duration {
	return time.Duration(v.lenient(name, maxMilliseconds)) * time.Millisecond
}

// pairs reads key=value,key=value with percent escapes, as W3C Baggage writes it. The text may be secret: no warning
// quotes it.
func (v *values) pairs(name string) map[string]string {
	out := map[string]string{}
	for pair := range strings.SplitSeq(v.text(name), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || key == "" || err != nil || len(out) >= maxPairs {
			v.warn("%s is not read to its end: it must be up to %d pairs as key=value,key=value", v.said(name), maxPairs)
			return out
		}
		out[key] = value
	}
	return out
}
