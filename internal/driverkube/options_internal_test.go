package driverkube

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubetest"
)

// parsed returns the options of a command line that was read and completed.
func parsed(t *testing.T, args ...string) (Options, error) {
	t.Helper()
	opts := Options{Version: "test", Logger: slog.New(slog.DiscardHandler)}
	cmd := Command("test")
	cmd.ResetFlags()
	opts.register(cmd.Flags(), &flags{})
	args = append([]string{"--namespace", "boxes", "--gateway-endpoint", "https://gw.boxes.svc:8080", "--supervisor-image", "s:1"}, args...)
	if err := cmd.ParseFlags(doubleDashes(args)); err != nil {
		t.Fatal(err)
	}
	return opts, opts.complete()
}

func TestOptions(t *testing.T) {
	t.Parallel()
	o, err := parsed(t, "-gateway-id=gw", "-sa-token-ttl-secs", "5", "-node-selector", "a=b,c=d", "-capabilities", "cap_net_bind_service")
	if err != nil {
		t.Fatal(err)
	}
	if o.Tenant != "boxes" || o.NamespacePrefix != "openshell-gw-" || o.TokenSeconds != 600 || o.NodeSelector["c"] != "d" || o.Capabilities[0] != "NET_BIND_SERVICE" {
		t.Errorf("got %+v", o)
	}
	for text, args := range map[string][]string{
		"--namespace:":                    {"--namespace", "Not A Name"},
		"--gateway-id:":                   {"--gateway-id", "a/b"},
		"--gateway-endpoint:":             {"--gateway-endpoint", "gateway:8080"},
		"--supervisor-image: is required": {"--supervisor-image", ""},
		"--supervisor-binary-path:":       {"--supervisor-binary-path", "a/../b"},
		"--supervisor-sideload:":          {"--supervisor-sideload", "copy"},
		"--workspace-mode:":               {"--workspace-mode", "own"},
		"--pod-security:":                 {"--pod-security", "none"},
		"does not allow SYS_ADMIN":        {"--pod-security", "baseline", "--capabilities", "SYS_ADMIN"},
		"is no name of a capability":      {"--pod-security", "privileged", "--capabilities", "1"},
		"does not allow root":             {"--sandbox-uid", "0"},
		"is no amount":                    {"--workspace-storage-size", "big"},
		"--quota-pods":                    {"--quota-pods", "-1"},
		"--host-gateway-ip:":              {"--host-gateway-ip", "host"},
		"--namespace-label:":              {"--workspace-mode", "operator", "--namespace-label", "x"},
		"--namespace-prefix:":             {"--workspace-mode", "managed", "--namespace-prefix", "UPPER"},
		"--sandbox-image-pull-policy:":    {"--sandbox-image-pull-policy", "always"},
	} {
		if _, err := parsed(t, args...); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, want %q", args, err, text)
		}
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	set := Command("test").Flags()
	if err := set.Parse([]string{"--tenant", "flag"}); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"SALLYPORT_DRIVER_TENANT": "variable", "SALLYPORT_DRIVER_GATEWAY_ID": "variable", "SALLYPORT_DRIVER_METRICS_PORT": "x"}
	err := fromEnv(set, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err == nil || !strings.Contains(err.Error(), "SALLYPORT_DRIVER_METRICS_PORT") {
		t.Errorf("a bad value: %v", err)
	}
	if tenant, _ := set.GetString("tenant"); tenant != "flag" {
		t.Errorf("tenant is %q: the command line comes first", tenant)
	}
	if id, _ := set.GetString("gateway-id"); id != "variable" {
		t.Errorf("gateway-id is %q", id)
	}
}

func TestUnknownFlag(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-tls-ca-secrets", "--tls-ca-secrets=x"} {
		err := Execute(t.Context(), "test", []string{flag})
		if err == nil || !strings.Contains(err.Error(), "did you mean --tls-ca-secret?") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if err := Execute(t.Context(), "test", []string{"--dtach-binary-path", "x"}); err == nil || !strings.Contains(err.Error(), "--help lists all flags") {
		t.Errorf("got %v", err)
	}
}

func TestTolerations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "",
		"- key: a\n  operator: Exists\n": "a",
		"[{key: b, value: c, effect: NoSchedule}]": "b",
	} {
		path := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readTolerations(path)
		if err != nil || want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0].Key != want) {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"key: a", "- kee: a", strings.Repeat(" ", maxTolerations+1), "{"} {
		path := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readTolerations(path); err == nil {
			t.Errorf("%.20q: %v", text, got)
		}
	}
}

// TestMetrics looks at the port of a driver whose permission is missing, and then is not.
func TestMetrics(t *testing.T) {
	t.Parallel()
	server := kubetest.New(t)
	refuse := make(chan bool, 1)
	refuse <- true
	server.Fail = func(r *http.Request) (int, string, string) {
		is := <-refuse
		refuse <- is
		if is && strings.HasSuffix(r.URL.Path, "/pods") {
			return 403, "Forbidden", `pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "boxes"`
		}
		return 0, "", ""
	}
	opts, err := parsed(t, "--kubeconfig", server.Kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	probe.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.serveMetrics(ctx, uint16(port)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		resp, err := client.Get("http://127.0.0.1:" + strconv.Itoa(port) + path)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw)
	}
	await := func(path string, code int, text string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			c, body := get(path)
			if c == code && strings.Contains(body, text) {
				return
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%s: %d %s, want %d with %q", path, c, body, code, text)
			}
		}
	}
	await("/healthz", 200, "ok")
	await("/readyz", 503, "KUBERNETES_PERMISSION_MISSING: follow pods: the driver's service account may not list pods in namespace boxes; grant the verb")
	await("/metrics", 200, `sallyport_driver_kubernetes_stream_following{stream="pods"} 0`)
	await("/metrics", 200, "sallyport_driver_kubernetes_ready 0")
	<-refuse
	refuse <- false
	await("/readyz", 200, "ok")
	await("/metrics", 200, "sallyport_driver_kubernetes_ready 1")
	await("/metrics", 200, `sallyport_driver_kubernetes_sandboxes{state="ready"} 0`)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
