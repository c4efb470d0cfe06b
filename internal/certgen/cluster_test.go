package certgen_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/certgen"
	"sallyport.dev/sallyport/internal/kubeclient"
)

// clusterEnv names the kubeconfig of a cluster that tests may use; nobody's own cluster is taken for one.
const clusterEnv = "SALLYPORT_TEST_KUBECONFIG"

// kubectl calls a real cluster as its administrator.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", os.Getenv(clusterEnv)}, args...)...).Output()
	if err != nil {
		t.Fatalf("kubectl %q: %v", args, err)
	}
	return string(out)
}

// TestRealAPIServer runs against a real cluster, in a namespace of its own and with no more rights than the
// documents ask for.
func TestRealAPIServer(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("kubectl"); os.Getenv(clusterEnv) == "" || err != nil {
		t.Skipf("NOT PROVEN with a real API server: %s is not set, or there is no kubectl", clusterEnv)
	}
	namespace := fmt.Sprintf("sallyport-certgen-%d", time.Now().UnixNano()%1e9)
	kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() {
		_ = exec.Command("kubectl", "--kubeconfig", os.Getenv(clusterEnv), "delete", "namespace", namespace, "--wait=false").Run()
	})
	kubectl(t, "-n", namespace, "create", "serviceaccount", "certgen")
	kubectl(t, "-n", namespace, "create", "role", "certgen", "--verb=get,create,patch", "--resource=secrets")
	kubectl(t, "-n", namespace, "create", "rolebinding", "certgen", "--role=certgen", "--serviceaccount="+namespace+":certgen")
	var view struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     string `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal([]byte(kubectl(t, "config", "view", "--raw", "--minify", "-o", "json")), &view); err != nil || len(view.Clusters) != 1 {
		t.Fatalf("%v", err)
	}
	ca, err := base64.StdEncoding.DecodeString(view.Clusters[0].Cluster.CA)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.crt": ca, "token": []byte(kubectl(t, "-n", namespace, "create", "token", "certgen"))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, err := kubeclient.New(kubeclient.Config{
		URL: view.Clusters[0].Cluster.Server, CAPath: filepath.Join(dir, "ca.crt"), TokenPath: filepath.Join(dir, "token"), Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	secrets := certgen.Secrets{Namespace: namespace, Server: "server", Client: "client", Signing: "jwt", Encryption: "kek", API: client}
	done := func(o certgen.Options) []string {
		t.Helper()
		report, err := certgen.InSecrets(t.Context(), secrets, o)
		if err != nil {
			t.Fatal(err)
		}
		return report.Done
	}
	// Several at once, as a job that is started twice.
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := certgen.InSecrets(t.Context(), secrets, certgen.Options{})
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := done(certgen.Options{}); len(got) != 0 {
		t.Errorf("once more: %q", got)
	}
	if got := done(certgen.Options{Names: []string{"gw.example.org"}}); len(got) != 1 {
		t.Errorf("a new name: %q", got)
	}
	kubectl(t, "-n", namespace, "annotate", "secret", "client", "cert-manager.io/certificate-name=x")
	kubectl(t, "-n", namespace, "delete", "secret", "server")
	if got := done(certgen.Options{}); len(got) != 1 || !strings.Contains(got[0], "new server certificate") {
		t.Errorf("a lost Secret: %q", got)
	}
	kubectl(t, "-n", namespace, "delete", "secret", "server", "server-ca")
	if _, err := certgen.InSecrets(t.Context(), secrets, certgen.Options{}); err == nil || !strings.Contains(err.Error(), "partial PKI state in namespace "+namespace) {
		t.Errorf("what cannot be repaired: %v", err)
	}
	kubectl(t, "-n", namespace, "patch", "secret", "jwt", "--type=merge", "-p", `{"immutable":true}`)
	if got := done(certgen.Options{SigningOnly: true}); len(got) != 0 {
		t.Errorf("keys only: %q", got)
	}
}
