//go:build linux

package kube_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/keycloak"
)

// shared is the Keycloak of all tests, beside the cluster, on the address at which pods and this machine alike reach it.
var shared struct {
	once   sync.Once
	server *keycloak.Server
	err    error
}

func realm(t *testing.T) keycloak.Realm {
	t.Helper()
	shared.once.Do(func() {
		if shared.err = keycloak.Available(context.Background(), os.Getenv(requireEnv) == "1"); shared.err != nil {
			return
		}
		var state string
		if state, shared.err = os.MkdirTemp("", "kc"); shared.err == nil {
			shared.server = keycloak.NewServer(state, "--https", "--address", address("0.1"))
			shared.err = shared.server.Start()
		}
	})
	switch {
	case shared.err == nil:
	case os.Getenv(requireEnv) == "1":
		t.Fatalf("no Keycloak: %v", shared.err)
	default:
		t.Skipf("NOT PROVEN, no Keycloak: %v", shared.err)
	}
	return shared.server.Realm()
}

// endShared ends what the tests shared.
func endShared() error {
	if shared.server == nil {
		return nil
	}
	return errors.Join(shared.server.Stop(), os.RemoveAll(shared.server.State))
}

const (
	// releaseName is the name of the chart's release, and so of its objects.
	releaseName = "gw"
	// credential is what the credentials driver knows, machineSecret the name of its secret.
	credential, machineSecret = "demo", "demo-secret"
)

// release is an installed chart: a gateway with both drivers in a namespace of its own, for a realm.
type release struct {
	space
	realm keycloak.Realm
	// values are files of values, each over those before it.
	values []string
	// endpoint is host and port of the gateway, ca the file of its authority.
	endpoint, ca string
	// home is where helm keeps what it would keep at home.
	home string
}

// install installs the chart as an operator does who has Keycloak and both drivers. It returns when Helm says that all is
// ready. More values come over those of every test.
func install(t *testing.T, more string) *release {
	t.Helper()
	c := require(t)
	r := &release{space: c.space(t, "tenant"), realm: realm(t), home: t.TempDir()}
	// Kubernetes refuses every pod here that asks for more than the strictest of its levels allows.
	r.kubectl(t, "label", "namespace", r.name, "pod-security.kubernetes.io/enforce=restricted")
	c.allowDiscovery(t)
	if err := productImages(); err != nil {
		t.Fatalf("run make e2e-kube: %v", err)
	}
	r.in(t, "create", "configmap", "keycloak-ca", "--from-file=ca.crt="+r.realm.CA)
	r.in(t, "create", "secret", "generic", releaseName+"-credentials", "--from-literal="+machineSecret+"="+keycloak.MachineSecret)
	r.addValues(t, fmt.Sprintf(`
global: {image: {registry: %s, tag: %s}}
fullnameOverride: %s
service: {type: NodePort}
pkiInitJob: {serverIpAddresses: [%q]}
trustedCABundle: keycloak-ca
server:
  logLevel: debug
  sandboxImage: %s
  oidc:
    issuer: %q
    audience: openshell-cli
    scopesClaim: scope
    caConfigMapName: keycloak-ca
    issuers:
    - name: cluster
      issuer: https://kubernetes.default.svc.cluster.local
      audiences: [sallyport]
      usernameClaim: sub
      caConfigMapName: kube-root-ca.crt
      required: [{claim: '"kubernetes.io".namespace', values: [%s]}]
      defaultRoles: [openshell-user]
computeDriver: {logLevel: debug}
credentialsDriver:
  logLevel: debug
  credentials:
    %s: {client_id: %s, client_secret_ref: %s, token_endpoint: %q}
`, imageRegistry, imageTag, releaseName, address("0.2"), shell(t), r.realm.Issuer(), r.name, credential, keycloak.Machine, machineSecret, r.realm.Endpoint("token")))
	if more != "" {
		r.addValues(t, more)
	}
	t.Cleanup(func() { r.uninstall(t) })
	r.helm(t, "install")
	port := r.in(t, "get", "service", releaseName, "-o", `jsonpath={.spec.ports[?(@.name=="grpc")].nodePort}`)
	r.endpoint = address("0.2") + ":" + port
	pem, err := base64.StdEncoding.DecodeString(r.in(t, "get", "secret", releaseName+"-server-tls", "-o", `jsonpath={.data.ca\.crt}`))
	if err != nil {
		t.Fatal(err)
	}
	r.ca = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(r.ca, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *release) addValues(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), fmt.Sprintf("values-%d.yaml", len(r.values)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.values = append(r.values, file)
}

// helm installs or upgrades the release with its values and waits for it.
func (r *release) helm(t *testing.T, verb string) {
	t.Helper()
	args := []string{verb, releaseName, top(t, "deploy", "helm", "sallyport"), "--wait", "--timeout", patience.String()}
	for _, file := range r.values {
		args = append(args, "--values", file)
	}
	if _, err := r.tryHelm(args...); err != nil {
		t.Fatal(err)
	}
}

func (r *release) tryHelm(args ...string) (string, error) {
	return tell("env", append([]string{
		"HELM_CACHE_HOME=" + r.home, "HELM_CONFIG_HOME=" + r.home, "HELM_DATA_HOME=" + r.home,
		filepath.Join(r.bin, "helm"), "--kubeconfig", r.kubeconfig, "--namespace", r.name,
	}, args...)...)
}

// uninstall removes what of a release is not in its namespace.
func (r *release) uninstall(t *testing.T) {
	if os.Getenv(keepEnv) != "" {
		return
	}
	if t.Failed() {
		// What the pods said is written down before they go.
		r.record(context.WithoutCancel(t.Context()), t)
	}
	if _, err := r.tryHelm("uninstall", releaseName, "--wait", "--ignore-not-found"); err != nil {
		t.Error(err)
	}
}

// dial connects to the gateway without a credential.
func (r *release) dial(t *testing.T) openshellpb.OpenShellClient {
	t.Helper()
	pem, err := os.ReadFile(r.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient(r.endpoint, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return openshellpb.NewOpenShellClient(conn)
}

// signedIn is a terminal of somebody who has registered the gateway and signed in on the provider's page.
func (r *release) signedIn(t *testing.T, user string) *terminal {
	t.Helper()
	m := newTerminal(t, r.realm)
	e := m.run(t, nil, user, "gateway", "add", "https://"+r.endpoint, "--name", "kube", "--ca", r.ca, "--oidc-issuer", "auto", "--oidc-scopes", "openshell:all")
	if e.code != 0 {
		t.Fatalf("sign in as %s: exit code %d\n%s%s", user, e.code, e.out, e.errOut)
	}
	return m
}

// podOf is the name of the pod of a sandbox, empty if there is none.
func (r *release) podOf(t *testing.T, sandbox string) string {
	t.Helper()
	return strings.TrimSpace(r.in(t, "get", "pods", "-l", "openshell.ai/managed-by=openshell,openshell.ai/sandbox-name="+sandbox,
		"-o", `jsonpath={.items[*].metadata.name}`))
}

// gateway is the pod of the gateway and its drivers.
const gatewayPod = releaseName + "-0"
