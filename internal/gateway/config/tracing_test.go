package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/gateway/config"
)

func TestTracing(t *testing.T) {
	t.Parallel()
	base := map[string]string{
		"HOME": "/nonexistent", "OPENSHELL_DISABLE_TLS": "true", "OPENSHELL_DRIVERS": "external", "OPENSHELL_COMPUTE_DRIVER_SOCKET": "/s",
		"OPENSHELL_OIDC_ISSUER": "https://i.test",
	}
	plain := config.Tracing{
		Endpoint: "http://c.test:4317", Service: "openshell-gateway", Sampler: "parentbased_always_on", Ratio: 1,
		Attributes: map[string]string{}, Headers: map[string]string{}, Timeout: 10 * time.Second, Delay: 5 * time.Second,
		MaxQueue: 2048, MaxBatch: 512,
	}
	full := plain
	full.Sampler, full.Ratio, full.Timeout, full.Delay, full.MaxQueue, full.MaxBatch = "traceidratio", 0.25, 2*time.Second, time.Second, 10, 5
	full.Attributes = map[string]string{"a": "b c", "d": "e=f"}
	full.Headers = map[string]string{"authorization": "Bearer x", "k": "2"}
	for name, tc := range map[string]struct {
		env  map[string]string
		want config.Tracing
		warn []string
	}{
		"off": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x.test", "OTEL_TRACES_SAMPLER": "nonsense"}},
		"on":  {env: map[string]string{"SALLYPORT_OTLP_ENDPOINT": "http://c.test:4317"}, want: plain},
		"with its variables": {env: map[string]string{
			"SALLYPORT_OTLP_ENDPOINT": "http://c.test:4317", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25",
			"OTEL_RESOURCE_ATTRIBUTES": "a=b%20c, d=e=f,", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x,k=1",
			"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "k=2", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2000", "OTEL_BSP_SCHEDULE_DELAY": "1000",
			"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5",
		}, want: full},
		"wrong variables do not keep it from starting": {env: map[string]string{
			"SALLYPORT_OTLP_ENDPOINT": "http://c.test:4317", "OTEL_TRACES_SAMPLER": "jaeger", "OTEL_TRACES_SAMPLER_ARG": "2",
			"OTEL_BSP_MAX_QUEUE_SIZE": "-1", "OTEL_RESOURCE_ATTRIBUTES": "%zz", "OTEL_EXPORTER_OTLP_HEADERS": "s3cret", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		}, want: plain, warn: []string{"unknown sampler", "from 0 to 1", "from 1 to 65536", "OTEL_RESOURCE_ATTRIBUTES is not read", "OTEL_EXPORTER_OTLP_HEADERS is not read", "uncompressed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := config.Parse(nil, func(k string) (string, bool) {
				if v, ok := tc.env[k]; ok {
					return v, true
				}
				v, ok := base[k]
				return v, ok
			})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, c.Tracing); d != "" {
				t.Error(d)
			}
			all := strings.Join(c.Warnings, "\n")
			for _, w := range tc.warn {
				if !strings.Contains(all, w) {
					t.Errorf("no warning with %q in\n%s", w, all)
				}
			}
			if len(tc.warn) == 0 && strings.Contains(all, "OTEL") || strings.Contains(all, "s3cret") {
				t.Errorf("warnings\n%s", all)
			}
		})
	}
}
