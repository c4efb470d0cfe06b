package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

//go:generate go run ./metricsdoc ../../docs

// kind is the type of a series.
type kind string

const (
	counter   kind = "counter"
	gauge     kind = "gauge"
	histogram kind = "histogram"
)

// series is one name of the scrape: what it is made from, and what docs/metrics.md says of it.
type series struct {
	name   string
	kind   kind
	labels []string
	help   string
	// values says what the labels may be.
	values string
	// when says where the series is missing; empty is never.
	when    string
	buckets []float64
}

// Buckets, in seconds unless they say otherwise.
var (
	callBuckets   = []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}
	driverBuckets = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30}
	commitBuckets = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25, 1, 5}
	batchBuckets  = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
	probeBuckets  = []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 2}
)

// Names of series that more than one place has to say.
const (
	nameRequests = "openshell_server_grpc_requests_total"
	nameDuration = "openshell_server_grpc_request_duration_seconds"
)

// catalog lists every series of the gateway's own in the order of docs/metrics.md. Labels have values of closed sets
// only, or names that the operator configured.
var catalog = slices.Concat(referenceSeries, peopleSeries, sandboxSeries, driverSeries, storeSeries, operationSeries)

var referenceSeries = []series{
	{
		name: nameRequests, kind: counter, labels: []string{"service", "method", "code"}, help: "Finished calls.",
		values: "`service` and `method` of the contract, `unknown` for all others; `code` is the gRPC code as a number, that of the end of the stream.",
	},
	{name: nameDuration, kind: histogram, labels: []string{"service", "method", "code"}, help: "Time from the first byte of a call to its end.", values: "As above.", buckets: callBuckets},
	{
		name: "openshell_server_http_requests_total", kind: counter, labels: []string{"path", "status"}, help: "Answered HTTP requests that are no calls.",
		values: "`path` is `/connect/ssh`, `/_ws_tunnel`, `/auth`, `sandbox_service` for all services of sandboxes, or `unknown`; `status` the HTTP status.", when: "nobody has asked yet",
	},
	{
		name: "openshell_server_http_request_duration_seconds", kind: histogram, labels: []string{"path", "status"}, help: "Time to answer them, without tunnels, SSH and services.",
		values: "As above.", when: "nobody has asked yet", buckets: callBuckets,
	},
	{name: "openshell_server_readiness_database_healthy", kind: gauge, help: "1 while the database answers."},
	{
		name: "openshell_server_readiness_database_probe_duration_seconds", kind: histogram, labels: []string{"outcome"}, help: "Time of the probe of the database, every five seconds.",
		values: "`success`, `db_error`, `timeout`.", buckets: probeBuckets,
	},
}

var peopleSeries = []series{
	{
		name: "sallyport_authentications_total", kind: counter, labels: []string{"kind", "result"}, help: "Attempts to authenticate.",
		values: "`kind` of who was believed: `oidc`, `mtls`, `local_dev`, `sandbox_token`, `expired_sandbox_token`, `k8s_service_account`, `shared_secret`; of who was not, what was presented: `token`, `certificate`, `secret`, `none`. `result` is `accepted` or the reason of docs/errors.md.",
	},
	{
		name: "sallyport_oidc_tokens_total", kind: counter, labels: []string{"issuer", "result"}, help: "Access tokens looked at.",
		values: "`issuer` is the configured name or `unknown`; `result` is `accepted` (verified), `remembered` or the reason.", when: "no user has called yet",
	},
	{
		name: "sallyport_oidc_key_fetches_total", kind: counter, labels: []string{"issuer", "result"}, help: "Fetches of an issuer's keys.",
		values: "`changed`, `unchanged`, `failed`.", when: "there is no issuer",
	},
	{name: "sallyport_oidc_key_age_seconds", kind: gauge, labels: []string{"issuer"}, help: "Time since an issuer last confirmed its keys.", when: "there is no issuer, or it was never reached"},
	{name: "sallyport_oidc_keys", kind: gauge, labels: []string{"issuer"}, help: "Keys of an issuer that serve.", when: "there is no issuer"},
	{name: "sallyport_oidc_ready", kind: gauge, labels: []string{"issuer"}, help: "1 while the issuer's tokens can be verified.", when: "there is no issuer"},
	{
		name: "sallyport_limited_total", kind: counter, labels: []string{"class"}, help: "Calls that a rate limit refused.",
		values: "`anonymous`, `probe`, `failed` (only known credentials were looked at), `principal`, `tenant`, `sandbox`.",
	},
	{
		name: "sallyport_connections_refused_total", kind: counter, labels: []string{"reason"}, help: "Connections that were closed before they were served.",
		values: "`connections`, `address`, `strangers`, `silent`, `handshake`, and `tunnel_` with the reason of a WebSocket tunnel.", when: "none was refused",
	},
}

var sandboxSeries = []series{
	{
		name: "sallyport_sandboxes", kind: gauge, labels: []string{"phase"}, help: "Stored sandboxes.",
		values: "`provisioning`, `ready`, `error`, `deleting`, `stopping`, `stopped`, `starting`, `unknown`.",
	},
	{name: "sallyport_sandboxes_unfinished", kind: gauge, labels: []string{"operation"}, help: "Sandboxes of which the driver has not confirmed yet what was asked for.", values: "`create`, `delete`, `stop`, `start`."},
	{name: "sallyport_reconcile_lag_seconds", kind: gauge, help: "Time since the oldest of these was asked for; 0 when there is none."},
	{name: "sallyport_supervisor_sessions", kind: gauge, help: "Connected supervisors."},
	{name: "sallyport_supervisor_sessions_opened_total", kind: counter, help: "Sessions of supervisors that began."},
	{
		name: "sallyport_supervisor_sessions_ended_total", kind: counter, labels: []string{"reason"}, help: "Sessions of supervisors that ended.",
		values: "`closed` by the supervisor, `lost` connection, `silent` for 45 s, `superseded` by a newer one, `disconnected` because the sandbox was deleted, `shutdown` of the gateway.",
	},
	{name: "sallyport_relays", kind: gauge, help: "Open relays."},
	{name: "sallyport_relays_waiting", kind: gauge, help: "Relays that wait for their supervisor; at most 256."},
	{name: "sallyport_relays_opened_total", kind: counter, help: "Relays that a supervisor opened."},
	{
		name: "sallyport_relays_ended_total", kind: counter, labels: []string{"reason"}, help: "Relays that ended, those that were never opened included.",
		values: "`closed`, `dropped` by the supervisor, `session_ended`, `target_failed`, `open_timeout`, `caller_gone`, `refused` by a limit, `other`.",
	},
	{name: "sallyport_relay_bytes_total", kind: counter, labels: []string{"direction"}, help: "Bytes carried by relays.", values: "`to_sandbox`, `from_sandbox`."},
	{name: "sallyport_service_requests", kind: gauge, help: "Requests to services of sandboxes that are being served."},
	{name: "sallyport_service_sessions", kind: gauge, help: "Browsers that are signed in to services of sandboxes."},
	{name: "sallyport_sandbox_token_keys", kind: gauge, help: "Keys whose sandbox tokens are believed; the newest signs."},
}

var driverSeries = []series{
	{name: "sallyport_driver_connected", kind: gauge, labels: []string{"driver"}, help: "1 while the driver is connected.", values: "`compute`, `credentials`."},
	{name: "sallyport_driver_suspended", kind: gauge, labels: []string{"driver"}, help: "1 while calls are held back because the driver does not answer.", values: "As above."},
	{name: "sallyport_driver_connections_total", kind: counter, labels: []string{"driver"}, help: "How often the driver was connected.", values: "As above."},
	{name: "sallyport_driver_calls_running", kind: gauge, labels: []string{"driver"}, help: "Calls that are with the driver; at most 64.", values: "As above."},
	{name: "sallyport_driver_calls_waiting", kind: gauge, labels: []string{"driver"}, help: "Calls that wait for a place; at most 1024.", values: "As above."},
	{
		name: "sallyport_driver_call_duration_seconds", kind: histogram, labels: []string{"driver", "method", "code"}, help: "Duration of calls to drivers.",
		values: "`method` of the driver's contract; `code` is the gRPC code by name, `Unavailable` where the driver did not answer.", when: "no call was made", buckets: driverBuckets,
	},
}

var storeSeries = []series{
	{name: "sallyport_store_commit_duration_seconds", kind: histogram, labels: []string{"result"}, help: "Time of a commit, its sync to disk included.", values: "`ok`, `error`.", buckets: commitBuckets},
	{name: "sallyport_store_commit_writes", kind: histogram, help: "Writes that shared a commit.", buckets: batchBuckets},
	{name: "sallyport_store_queue", kind: gauge, help: "Writes that wait for a commit; at 1024 callers wait."},
	{name: "sallyport_database_bytes", kind: gauge, labels: []string{"file"}, help: "Size of the database.", values: "`data`, `log` (write-ahead log).", when: "the database is in memory or is PostgreSQL"},
	{name: "sallyport_database_connections", kind: gauge, labels: []string{"state"}, help: "Connections to the database.", values: "`busy`, `idle`."},
	{name: "sallyport_database_connections_max", kind: gauge, help: "The most connections there may be."},
	{name: "sallyport_database_waits_total", kind: counter, help: "How often a connection had to be waited for."},
}

var operationSeries = []series{
	{
		name: "sallyport_ready", kind: gauge, labels: []string{"check"}, help: "1 while a thing that readiness depends on is well.",
		values: "`database`, `compute_driver`, and where they are used `credentials_driver`, `oidc`, `audit`.",
	},
	{name: "sallyport_audit_records_total", kind: counter, help: "Sequence of the last audit record on disk.", when: "the audit log is off"},
	{name: "sallyport_audit_lost_total", kind: counter, help: "Audit records that were given up because the disk did not take them.", when: "the audit log is off"},
	{name: "sallyport_audit_queue", kind: gauge, help: "Audit records that wait for the disk.", when: "the audit log is off"},
	{name: "sallyport_audit_failing", kind: gauge, help: "1 while the disk does not take audit records.", when: "the audit log is off"},
	{name: "sallyport_audit_export_lag", kind: gauge, help: "Audit records that the receiver has not taken yet.", when: "audit records are not exported"},
	{name: "sallyport_audit_export_failing", kind: gauge, help: "1 while the receiver does not take audit records.", when: "audit records are not exported"},
	{name: "sallyport_config_reloads_total", kind: counter, labels: []string{"result"}, help: "Changes of configuration or its files.", values: "`applied`, `refused`."},
	{name: "sallyport_config_refused", kind: gauge, help: "1 while the last change was refused and older settings are in force."},
	{
		name: "sallyport_certificate_expiry_timestamp_seconds", kind: gauge, labels: []string{"file"}, help: "When a certificate ends, in Unix time.",
		values: "The configured path; of client authorities, the one that ends last.", when: "TLS is off",
	},
	{name: "sallyport_trace_spans_total", kind: counter, labels: []string{"result"}, help: "Spans that were recorded.", values: "`exported`, `dropped` because the queue was full, `failed` because the receiver did not take them.", when: "tracing is off"},
	{name: "sallyport_build_info", kind: gauge, labels: []string{"version", "goversion"}, help: "Always 1."},
}

// find returns a series of the catalog. The tests see to it that there is one for each name the code asks for.
func find(name string) series {
	i := slices.IndexFunc(catalog, func(s series) bool { return s.name == name })
	if i < 0 {
		return series{name: name, help: "Not in the catalog."}
	}
	return catalog[i]
}

func counterVec(name string) *prometheus.CounterVec {
	s := find(name)
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: s.name, Help: s.help}, s.labels)
}

func gaugeVec(name string) *prometheus.GaugeVec {
	s := find(name)
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: s.name, Help: s.help}, s.labels)
}

func histogramVec(name string) *prometheus.HistogramVec {
	s := find(name)
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: s.name, Help: s.help, Buckets: s.buckets}, s.labels)
}

// Marks of the part of docs/metrics.md that is written from the catalog.
const (
	seriesBegin = "<!-- series: begin, written by go generate -->\n"
	seriesEnd   = "<!-- series: end -->\n"
)

// MetricsReference returns the page of metrics with its table written anew.
func MetricsReference(page []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(seriesBegin))
	_, after, closed := bytes.Cut(rest, []byte(seriesEnd))
	if !ok || !closed {
		return nil, errors.New("the page of metrics has no marks around its table")
	}
	var b strings.Builder
	b.WriteString("\n| Series | Type | Labels | Meaning | Missing while |\n|---|---|---|---|---|\n")
	for _, s := range catalog {
		labels := ""
		for i, l := range s.labels {
			if i > 0 {
				labels += ", "
			}
			labels += "`" + l + "`"
		}
		meaning := s.help
		if s.values != "" {
			meaning += " " + s.values
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", s.name, s.kind, labels, meaning, s.when)
	}
	b.WriteString("\n")
	return slices.Concat(before, []byte(seriesBegin), []byte(b.String()), []byte(seriesEnd), after), nil
}
