package gateway_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
)

// freeAddress is an address that nobody listened to a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// observed is a system with metrics and the address of these.
func observed(t *testing.T, args ...string) (s *system, address string) {
	t.Helper()
	address = freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	s = start(t, append(args, "--metrics-port", port)...)
	s.await(address)
	return s, address
}

// await returns when an address answers.
func (s *system) await(address string) {
	s.t.Helper()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if s.t.Context().Err() != nil {
			s.t.Fatal(err)
		}
	}
}

// scrape reads what Prometheus would.
func scrape(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := (&http.Client{}).Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s", resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value is the sum of all series of a name with these labels, of a histogram its count.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		if !hasLabels(m, labels) {
			continue
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

func hasLabels(m *dto.Metric, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName()+"="+l.GetValue() == w }) {
			return false
		}
	}
	return true
}

// count is the number of series, without those of Go and the process.
func count(families map[string]*dto.MetricFamily) int {
	n := 0
	for name, f := range families {
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "promhttp_") {
			n += len(f.Metric)
		}
	}
	return n
}

func TestMetricsTellWhatHappened(t *testing.T) {
	t.Parallel()
	s, address := observed(t)
	sb := s.create("one")
	if _, err := s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: "none"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	if _, err := s.client.GetSandbox(bearer(t.Context(), "x.y.z"), &openshellpb.GetSandboxRequest{Name: "one"}); status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	supervisor, err := s.client.ConnectSupervisor(s.box(sb.Metadata.Id))
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
		Hello: &openshellpb.SupervisorHello{SandboxId: sb.Metadata.Id, InstanceId: "i"},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := supervisor.Recv(); err != nil {
		t.Fatal(err)
	}
	got := scrape(t, address)
	for _, want := range []struct {
		n      float64
		name   string
		labels []string
	}{
		{1, "openshell_server_grpc_requests_total", []string{"service=openshell.v1.OpenShell", "method=CreateSandbox", "code=0"}},
		{1, "openshell_server_grpc_requests_total", []string{"method=GetSandbox", "code=5"}},
		{1, "openshell_server_grpc_requests_total", []string{"method=GetSandbox", "code=16"}},
		{1, "openshell_server_grpc_request_duration_seconds", []string{"method=GetSandbox", "code=5"}},
		{1, "openshell_server_readiness_database_healthy", nil},
		{1, "sallyport_authentications_total", []string{"kind=sandbox_token", "result=accepted"}},
		{2, "sallyport_authentications_total", []string{"kind=oidc", "result=accepted"}},
		{1, "sallyport_authentications_total", []string{"kind=token"}},
		{2, "sallyport_oidc_tokens_total", []string{"issuer=default"}},
		{1, "sallyport_oidc_ready", []string{"issuer=default"}},
		{1, "sallyport_sandboxes", []string{"phase=ready"}},
		{1, "sallyport_sandboxes", nil},
		{0, "sallyport_sandboxes_unfinished", nil},
		{1, "sallyport_supervisor_sessions", nil},
		{1, "sallyport_supervisor_sessions_opened_total", nil},
		{1, "sallyport_sandbox_token_keys", nil},
		{1, "sallyport_driver_connected", []string{"driver=compute"}},
		{0, "sallyport_driver_suspended", []string{"driver=compute"}},
		{1, "sallyport_driver_call_duration_seconds", []string{"driver=compute", "method=CreateSandbox", "code=OK"}},
		{1, "sallyport_ready", []string{"check=compute_driver"}},
		{0, "sallyport_audit_lost_total", nil},
		{1, "sallyport_build_info", []string{"version=test"}},
	} {
		if n := value(got, want.name, want.labels...); n != want.n {
			t.Errorf("%s%v is %v, want %v", want.name, want.labels, n, want.n)
		}
	}
	for _, name := range []string{"sallyport_database_bytes", "sallyport_store_commit_duration_seconds", "sallyport_store_commit_writes", "sallyport_audit_records_total"} {
		if value(got, name) == 0 {
			t.Errorf("%s is 0", name)
		}
	}
	s.gateway.Reloaded(nil)
	s.gateway.Reloaded(io.EOF)
	got = scrape(t, address)
	if value(got, "sallyport_config_reloads_total", "result=refused") != 1 || value(got, "sallyport_config_refused") != 1 {
		t.Error("a refused configuration is not told")
	}
}

// TestHostileInputMakesNoSeries sends what a peer could make labels of, and sees the same number of series after the
// first time of each kind.
func TestHostileInputMakesNoSeries(t *testing.T) {
	t.Parallel()
	s, address := observed(t, "--websocket-tunnel", "--edge-auth", "--failed-attempts-per-minute", "0", "--anonymous-requests-per-second", "0", "--grpc-rate-limit-requests", "0")
	s.create("one")
	s.driver.odd = 1000
	hostile := func(from, to int) {
		for i := from; i < to; i++ {
			ctx := s.user()
			_ = s.conn.Invoke(ctx, fmt.Sprintf("/evil.v%d.Service/Method%d", i, i), &openshellpb.HealthRequest{}, &openshellpb.HealthResponse{})
			_ = s.conn.Invoke(ctx, fmt.Sprintf("/openshell.v1.OpenShell/Get%d", i), &openshellpb.HealthRequest{}, &openshellpb.HealthResponse{})
			_, _ = s.client.GetSandbox(bearer(t.Context(), fmt.Sprintf("a%d.b.c", i)), &openshellpb.GetSandboxRequest{})
			_, _ = s.client.GetSandbox(bearer(t.Context(), s.issuer.Mint(map[string]any{"iss": fmt.Sprintf("https://evil%d.test", i)})), &openshellpb.GetSandboxRequest{})
			_, _ = s.client.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: fmt.Sprintf("n%d", i), Workspace: fmt.Sprintf("w%d", i)})
			_, _ = s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: fmt.Sprintf("odd%d", i), Spec: &openshellpb.SandboxSpec{}})
			for _, path := range []string{fmt.Sprintf("/x%d", i), fmt.Sprintf("/auth/%d", i), fmt.Sprintf("/_ws_tunnel?x=%d", i)} {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.conn.Target()+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Origin", fmt.Sprintf("https://evil%d.test", i))
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
		}
	}
	hostile(0, 3)
	scrape(t, address)
	before := count(scrape(t, address))
	hostile(3, 60)
	after := scrape(t, address)
	if n := count(after); n != before {
		t.Errorf("%d series became %d", before, n)
	}
	for name, f := range after {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if strings.Contains(l.GetValue(), "evil") || strings.Contains(l.GetValue(), "odd") {
					t.Errorf("%s has the label %s=%s", name, l.GetName(), l.GetValue())
				}
			}
		}
	}
}

func TestScrapesUnderLoad(t *testing.T) {
	t.Parallel()
	s, address := observed(t)
	s.create("one")
	ctx, cancel := context.WithTimeout(s.user(), 500*time.Millisecond)
	defer cancel()
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if i == 0 && n < 50 {
					_, _ = s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Spec: &openshellpb.SandboxSpec{}})
				}
				_, _ = s.client.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: "one"})
			}
		})
	}
	last := 0.0
	for ctx.Err() == nil {
		got := scrape(t, address)
		n := value(got, "openshell_server_grpc_requests_total", "method=GetSandbox")
		if n < last {
			t.Fatalf("a counter fell from %v to %v", last, n)
		}
		last = n
	}
	load.Wait()
	if last == 0 {
		t.Error("nothing was counted")
	}
}

// TestThePageOfMetricsIsWhole compares docs/metrics.md with the catalog, and the catalog with a real scrape.
func TestThePageOfMetricsIsWhole(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := gateway.MetricsReference(page); err != nil || string(again) != string(page) {
		t.Errorf("docs/metrics.md is not what go generate writes: %v", err)
	}
	type row struct{ kind, labels, missing string }
	rows := map[string]row{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 7 && strings.HasPrefix(cells[1], " `") {
			rows[strings.Trim(cells[1], " `")] = row{strings.TrimSpace(cells[2]), strings.ReplaceAll(strings.TrimSpace(cells[3]), "`", ""), strings.TrimSpace(cells[5])}
		}
	}
	_, endpoint := collect(t)
	s, address := observed(t, "--otlp-endpoint", endpoint, "--audit-otlp-endpoint", "http://127.0.0.1:1/v1/logs", "--websocket-tunnel")
	s.create("one")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + s.conn.Target() + "/_ws_tunnel")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := scrape(t, address)
	for name, f := range got {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") {
			continue
		}
		r, ok := rows[name]
		if !ok {
			t.Errorf("docs/metrics.md does not have %s", name)
			continue
		}
		kind := strings.ToLower(f.GetType().String())
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
			want := strings.Split(r.labels, ", ")
			if r.labels == "" {
				want = nil
			}
			slices.Sort(labels)
			slices.Sort(want)
			if r.kind != kind || !slices.Equal(labels, want) {
				t.Errorf("%s is a %s with %v, the page says %s with %v", name, kind, labels, r.kind, want)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		// A gateway with a collector, an issuer and SQLite has all but these.
		if got[name] == nil && name != "sallyport_certificate_expiry_timestamp_seconds" && name != "sallyport_connections_refused_total" {
			t.Errorf("%s is not in the scrape of a gateway that does everything", name)
		}
	}
}
