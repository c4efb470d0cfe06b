//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// container runs programs of an image as Kubernetes does: any user in the group 0, a root that nobody may write, and
// the volumes that the pod names.
type container struct {
	root string
	// volumes are folders of this machine by the path at which they are.
	volumes map[string]string
}

const anyUser = "12345:0"

// start is what makes a container of a folder: it needs nothing but mounts in a namespace of their own.
const start = `set -eu
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do mount --bind "$2" "$root$1"; shift 2; done
shift
mount -o remount,bind,ro "$root"
exec chroot --userspec=` + anyUser + ` --groups= "$root" "$@"`

// unpack makes a container's root of an image.
func unpack(t *testing.T, name string, volumes ...string) *container {
	t.Helper()
	if os.Geteuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil {
		t.Skip("NOT PROVEN that the images run with another user and a root that is read only: that takes root and mounts")
	}
	image := open(t, filepath.Join(all(t), name+".tar")).images["linux/"+runtime.GOARCH]
	c := &container{root: folder(t, 0o755), volumes: map[string]string{}}
	for _, h := range image.entries {
		path := filepath.Join(c.root, h.Name)
		var err error
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeLink:
			err = os.Link(filepath.Join(c.root, h.Linkname), path)
		default:
			err = os.WriteFile(path, image.contents[h.Name], 0o600)
		}
		if err == nil {
			err = os.Lchown(path, h.Uid, h.Gid)
		}
		if err == nil && h.Typeflag != tar.TypeLink {
			err = os.Chmod(path, h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range append(volumes, "/proc") {
		if err := os.MkdirAll(filepath.Join(c.root, v), 0o755); err != nil {
			t.Fatal(err)
		}
		if v != "/proc" {
			c.volumes[v] = folder(t, 0o770)
		}
	}
	return c
}

// folder is one that others reach.
func folder(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for up := filepath.Dir(dir); up != os.TempDir() && len(up) > 1; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// file puts a file into the root, readable for the group as those of Secrets are.
func (c *container) file(t *testing.T, path string, data []byte) {
	t.Helper()
	path = filepath.Join(c.root, path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, data, 0o440)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *container) command(t *testing.T, env []string, words ...string) *exec.Cmd {
	t.Helper()
	args := []string{"--mount", "sh", "-c", start, "sh", c.root}
	for _, at := range slices.Sorted(maps.Keys(c.volumes)) {
		args = append(args, at, c.volumes[at])
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(append(args, "--"), words...)...)
	// PATH is for the tools that make the container; the image's program gets it too, and needs it not.
	cmd.Env, cmd.Dir = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/"}, env...), "/"
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// tenant is the configuration that the tenant chart renders.
const tenant = `[openshell]
version = 1
[openshell.gateway]
bind_address = "127.0.0.1:%d"
log_level = "info"
sandbox_namespace = "team1"
supervisor_image = "ghcr.io/example/supervisor:v1"
client_tls_secret_name = "openshell-client-tls"
[openshell.gateway.tls]
cert_path = "/etc/openshell-tls/server/tls.crt"
key_path = "/etc/openshell-tls/server/tls.key"
client_ca_path = "/etc/openshell-tls/server/ca.crt"
[openshell.gateway.gateway_jwt]
signing_key_path = "/etc/openshell-jwt/signing.pem"
public_key_path = "/etc/openshell-jwt/public.pem"
kid_path = "/etc/openshell-jwt/kid"
gateway_id = "openshell-team1"
ttl_secs = 3600
[openshell.gateway.oidc]
issuer = "http://keycloak.localtest.me:1/realms/openshell"
audience = "team1"
[openshell.drivers.kubernetes]
grpc_endpoint = "https://openshell-server.team1.svc:8080"
service_account_name = "openshell-sandbox"
sa_token_ttl_secs = 3600
image_pull_policy = "IfNotPresent"
`

// certificates makes what the pod needs with the image's own command, in a volume, and puts it where Secrets are.
func (c *container) certificates(t *testing.T) []byte {
	t.Helper()
	out, err := c.command(t, nil, "/usr/local/bin/openshell-gateway", "generate-certs", "--output-dir", "/data/pki", "--copy-client=false", "--server-san", "openshell-server.team1.svc").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pki := filepath.Join(c.volumes["/data"], "pki")
	var authority []byte
	for from, to := range map[string]string{
		"server/tls.crt": "etc/openshell-tls/server/tls.crt", "server/tls.key": "etc/openshell-tls/server/tls.key", "ca.crt": "etc/openshell-tls/server/ca.crt",
		"jwt/signing.pem": "etc/openshell-jwt/signing.pem", "jwt/public.pem": "etc/openshell-jwt/public.pem", "jwt/kid": "etc/openshell-jwt/kid",
	} {
		data, err := os.ReadFile(filepath.Join(pki, from))
		if err != nil {
			t.Fatal(err)
		}
		if from == "ca.crt" {
			authority = data
		}
		c.file(t, to, data)
	}
	if err := os.RemoveAll(pki); err != nil {
		t.Fatal(err)
	}
	return authority
}

// lines is a log that can be waited on.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	grew chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.grew <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestTenantChart starts the gateway with the command line, variables and configuration of the tenant chart, and with
// those of the older reference image.
func TestTenantChart(t *testing.T) {
	t.Parallel()
	for name, older := range map[string]bool{"tenant chart": false, "older image": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := unpack(t, "gateway", "/data", "/run/drivers")
			authority := c.certificates(t)
			if older {
				// As an emptyDir with a group is.
				if err := os.Chmod(c.volumes["/data"], 0o777|fs.ModeSetgid); err != nil {
					t.Fatal(err)
				}
			}
			port := freePort(t)
			env := []string{
				"OPENSHELL_SSH_HANDSHAKE_SECRET=changeme-changeme", "OPENSHELL_DRIVERS=external", "OPENSHELL_COMPUTE_DRIVER_SOCKET=/run/drivers/compute.sock",
				"OPENSHELL_CREDENTIALS_DRIVER_SOCKET=/run/drivers/credentials.sock", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
				"OPENSHELL_SERVER_PORT=tcp://10.0.0.1:8080", "OPENSHELL_SERVER_PORT_8080_TCP=tcp://10.0.0.1:8080", "OPENSHELL_SERVER_SERVICE_HOST=10.0.0.1", "KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=1",
			}
			args := []string{"/usr/local/bin/openshell-gateway", "--config", "/etc/openshell/gateway.toml", "--db-url", "sqlite:///data/openshell.db"}
			if older {
				args = []string{"/usr/local/bin/openshell-gateway", "--bind-address", "127.0.0.1", "--port", fmt.Sprint(port)}
				env = append(env, "OPENSHELL_DB_URL=sqlite:///data/openshell.db", "OPENSHELL_TLS_CERT=/etc/openshell-tls/server/tls.crt", "OPENSHELL_TLS_KEY=/etc/openshell-tls/server/tls.key",
					"OPENSHELL_TLS_CLIENT_CA=/etc/openshell-tls/server/ca.crt", "OPENSHELL_DISABLE_GATEWAY_AUTH=true", "OPENSHELL_OIDC_ISSUER=http://keycloak.localtest.me:1/realms/openshell",
					"OPENSHELL_OIDC_AUDIENCE=team1", "OPENSHELL_SANDBOX_NAMESPACE=team1", "OPENSHELL_SANDBOX_IMAGE=example", "OPENSHELL_GRPC_ENDPOINT=https://openshell.team1.svc:8080",
					"OPENSHELL_CLIENT_TLS_SECRET_NAME=openshell-client-tls")
			} else {
				c.file(t, "etc/openshell/gateway.toml", fmt.Appendf(nil, tenant, port))
			}
			log := &lines{grew: make(chan struct{}, 1)}
			cmd := c.command(t, env, args...)
			cmd.Stdout, cmd.Stderr = log, log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for limit := time.After(time.Minute); !strings.Contains(log.String(), "gateway serving"); {
				select {
				case <-log.grew:
				case err := <-ended:
					t.Fatalf("the gateway ended: %v\n%s", err, log)
				case <-limit:
					t.Fatalf("the gateway does not serve:\n%s", log)
				}
			}
			healthy(t, port, authority)
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%v:\n%s", err, log)
			}
			if !strings.Contains(log.String(), "OPENSHELL_SERVER_PORT has no effect") {
				t.Errorf("no warning of the service's link:\n%s", log)
			}
			if _, err := os.Stat(filepath.Join(c.volumes["/data"], "openshell.db")); err != nil {
				t.Error(err)
			}
		})
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func healthy(t *testing.T, port int, authority []byte) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "openshell-server.team1.svc"}, ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/healthz", port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || err != nil {
		t.Errorf("%s: %s, %v", resp.Status, body, err)
	}
}

// TestSupervisorInstalls runs what the first container of a sandbox's pod runs.
func TestSupervisorInstalls(t *testing.T) {
	t.Parallel()
	c := unpack(t, "supervisor", "/opt/openshell/bin")
	if out, err := c.command(t, nil, "/openshell-sandbox", "copy-self", "/opt/openshell/bin/openshell-sandbox").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(filepath.Join(c.volumes["/opt/openshell/bin"], "openshell-sandbox"))
	if err != nil || info.Mode() != 0o755 || info.Size() < 1_000_000 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestEveryEntryPoint runs each image's program as its entry point, far enough to see that it runs.
func TestEveryEntryPoint(t *testing.T) {
	t.Parallel()
	for _, i := range catalogue() {
		t.Run(i.name, func(t *testing.T) {
			t.Parallel()
			c := unpack(t, i.name)
			for _, path := range append([]string{binDir + "/" + i.program}, i.aliases...) {
				out, err := c.command(t, nil, "/"+path, "--help").CombinedOutput()
				if err != nil || !strings.Contains(string(out), i.program) {
					t.Errorf("%s: %v: %s", path, err, out)
				}
			}
			if out, err := c.command(t, nil, "/"+binDir+"/"+i.program, "--version").CombinedOutput(); err == nil && !strings.Contains(string(out), "v1.2.3") {
				t.Errorf("version %s", out)
			}
		})
	}
}
