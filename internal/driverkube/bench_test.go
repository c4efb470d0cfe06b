package driverkube_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/kubetest"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
)

// fill stores sandboxes with their pods as a real API server has them: with the bookkeeping of field managers, which
// is about as large as the rest.
func fill(b *testing.B, server *kubetest.Server, gateway string, n int) (bytes int) {
	b.Helper()
	settings := &manifest.Settings{
		GatewayID: gateway, Tenant: "team", GatewayEndpoint: "https://gateway.team.svc:8080", CASecret: "gateway-tls",
		Supervisor:     manifest.Supervisor{Image: "registry/supervisor:1", Path: "/openshell-sandbox", MountPath: "/opt/openshell/bin"},
		ServiceAccount: "openshell-sandbox", TokenAudience: "openshell-gateway", TokenSeconds: 3600, UID: 1000, Level: manifest.Restricted,
	}
	fields := make(map[string]any)
	for i := range 60 {
		fields["f:field-of-some-length-"+strconv.Itoa(i)] = kubetest.Object{"f:a": kubetest.Object{}, "f:b": kubetest.Object{}}
	}
	managed := []any{kubetest.Object{"manager": "sallyport-driver-kubernetes", "operation": "Apply", "fieldsV1": fields}}
	for i := range n {
		sb := computetest.Sandbox()
		sb.Name = fmt.Sprintf("sandbox-%05d", i)
		sb.Spec.Template.Image = "registry/base:1"
		sb.Spec.Environment = map[string]string{"CONFIG": strings.Repeat("x", 1024)}
		built, err := manifest.Build(settings, sb, manifest.Target{APIVersion: kubeapi.V1Beta1, Namespace: fakeNamespace, Shared: true})
		if err != nil {
			b.Fatal(err)
		}
		raw, err := json.Marshal(built)
		if err != nil {
			b.Fatal(err)
		}
		var o kubetest.Object
		if err := json.Unmarshal(raw, &o); err != nil {
			b.Fatal(err)
		}
		kubetest.Meta(o)["managedFields"], kubetest.Meta(o)["generation"] = managed, float64(1)
		o["status"] = kubetest.Object{"conditions": []any{
			kubetest.Condition("Ready", "True", "DependenciesReady", "Pod is Ready", float64(1)),
			kubetest.Condition("Suspended", "False", "NotSuspended", "Sandbox is not suspended", float64(1)),
		}}
		server.Put("sandboxes", o)
		pod := kubetest.PodOf(o)
		kubetest.Meta(pod)["managedFields"] = managed
		server.Put("pods", pod)
		if i == 0 {
			podRaw, err := json.Marshal(pod)
			if err != nil {
				b.Fatal(err)
			}
			sbRaw, err := json.Marshal(o)
			if err != nil {
				b.Fatal(err)
			}
			bytes = len(podRaw) + len(sbRaw)
		}
	}
	return bytes
}

// memory reads how much memory a process has, and had at most, in MiB.
func memory(b *testing.B, pid int) (now, most float64) {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(words[1], 64)
		switch words[0] {
		case "VmRSS:":
			now = kib / 1024
		case "VmHWM:":
			most = kib / 1024
		}
	}
	return now, most
}

// BenchmarkMemory starts the driver at a cluster that is full already, opens two watches, lists, loses its place and
// reads everything again. It reports the memory of the driver's process.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{0, 1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			server := kubetest.New(b)
			size := fill(b, server, "gw-bench", n)
			for b.Loop() {
				f := &fixture{t: b, namespace: fakeNamespace}
				f.open(server.Kubeconfig(b), []string{"--supervisor-image", "registry/supervisor:1", "--gateway-id", "gw-bench"})
				list := func() {
					resp, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
					if err != nil || len(resp.GetSandboxes()) != n {
						b.Fatalf("%d sandboxes listed: %v", len(resp.GetSandboxes()), err)
					}
				}
				list()
				for range 2 {
					w, err := f.client().WatchSandboxes(f.context(), &computepb.WatchSandboxesRequest{})
					if err != nil {
						b.Fatal(err)
					}
					for range n {
						if _, err := w.Recv(); err != nil {
							b.Fatal(err)
						}
					}
				}
				before := server.Requests("watch pods")
				server.Forget()
				eventually(b, "the next watch", func() bool { return server.Requests("watch pods") > before })
				for range 5 {
					list()
				}
				now, most := memory(b, f.cmd.Process.Pid)
				b.ReportMetric(now, "MiB")
				b.ReportMetric(most, "MiB-peak")
				b.ReportMetric(float64(size), "B/object-pair")
				f.kill()
				f.conn.Close()
				f.over = true
			}
		})
	}
}

// BenchmarkCreate creates sandboxes at a real API server, eight at a time, without their pods: those are the
// controller's and the node's business.
func BenchmarkCreate(b *testing.B) {
	f := newFixture(b, "--node-selector", "no-such=node")
	b.SetParallelism(8)
	began := time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sandbox()})
			if status.Code(err) != codes.OK {
				b.Errorf("create: %v", err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "creates/s")
}

// BenchmarkCreateItself is BenchmarkCreate at an API server that costs next to nothing, in the test's own process: what
// is left is the driver's own work, the client's and the two connections'.
func BenchmarkCreateItself(b *testing.B) {
	f, _ := newFake(b, nil)
	b.SetParallelism(8)
	began, cpu := time.Now(), cpuOf(b, f.cmd.Process.Pid)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f.createErr(sandbox()); err != nil {
				b.Errorf("create: %v", err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "creates/s")
	b.ReportMetric((cpuOf(b, f.cmd.Process.Pid)-cpu)*1000/float64(b.N), "driver-cpu-ms/op")
}

// cpuOf reads how many seconds of processor time a process has used.
func cpuOf(b *testing.B, pid int) float64 {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	// User and system time are the 14th and 15th field, in hundredths; the second may hold blanks.
	words := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.ParseFloat(words[11], 64)
	system, _ := strconv.ParseFloat(words[12], 64)
	return (user + system) / 100
}

// BenchmarkApply is the limit for BenchmarkCreate: the same objects by nothing but the one call that writes them.
func BenchmarkApply(b *testing.B) {
	f := newFixture(b)
	settings := &manifest.Settings{
		GatewayID: "gw-bench", GatewayEndpoint: "https://127.0.0.1:1", DefaultImage: supervisorImage(), Level: manifest.Restricted, UID: 1000,
		Supervisor:     manifest.Supervisor{Image: supervisorImage(), Path: "/openshell-sandbox", MountPath: "/opt/openshell/bin", Volume: true},
		ServiceAccount: "openshell-sandbox", TokenAudience: "openshell-gateway", TokenSeconds: 3600,
		NodeSelector: map[string]string{"no-such": "node"}, Seed: true,
	}
	b.SetParallelism(8)
	began := time.Now()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			sb := sandbox()
			o, err := manifest.Build(settings, sb, manifest.Target{APIVersion: kubeapi.V1Beta1, Namespace: f.namespace, Shared: true})
			if err == nil {
				_, err = f.api.Apply(b.Context(), boxes, f.namespace, o.Metadata.Name, manifest.ManagerOf(sb.GetId()), false, o, nil)
			}
			if err != nil {
				b.Errorf("apply: %v", err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "creates/s")
	// These are nobody's sandboxes: they go with their namespace, all at once.
	for _, name := range f.names(boxes) {
		if err := f.api.Delete(b.Context(), boxes, f.namespace, name, kubeapi.Precondition{}, false); err != nil {
			b.Error(err)
		}
	}
}
