package driverkube

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"sallyport.dev/sallyport/internal/driverkube/manifest"
)

// Where a pod tells which namespace it is in.
const (
	namespaceVariable = "POD_NAMESPACE"
	namespaceFile     = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	maxTolerations    = 64 << 10
)

// ownNamespace is the namespace that the driver's pod runs in, empty outside of a pod.
func ownNamespace() string {
	if name := os.Getenv(namespaceVariable); name != "" {
		return name
	}
	raw, err := os.ReadFile(namespaceFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// flags are the command line's values that are no options of the driver as they are.
type flags struct {
	socket          string
	tolerationsFile string
	metricsPort     uint16
	logLevel        string
	uids            []uint
}

// register adds every flag. docs/drivers-kubernetes.md has the same table; a test compares.
func (o *Options) register(f *pflag.FlagSet, own *flags) {
	f.StringVar(&own.socket, "socket", DefaultSocket, "Unix socket to serve on")
	f.StringVar(&o.Namespace, "namespace", ownNamespace(), "namespace of the sandboxes in shared mode, and of the secrets they need; the pod's own by default")
	f.StringVar(&o.Tenant, "tenant", "", "value of the label openshell.ai/tenant; the namespace by default")
	f.StringVar(&o.GatewayID, "gateway-id", DefaultGatewayID, "which gateway the sandboxes belong to; gateways that share a namespace need different ones")
	f.StringVar(&o.GatewayEndpoint, "gateway-endpoint", "", "https://host:port at which sandboxes reach the gateway (required)")
	f.StringVar(&o.SupervisorImage, "supervisor-image", "", "image that holds the supervisor (required)")
	f.StringVar(&o.SupervisorPullPolicy, "supervisor-image-pull-policy", "", "Always, IfNotPresent or Never; Kubernetes' default if empty")
	f.StringVar(&o.SupervisorPath, "supervisor-binary-path", DefaultSupervisorPath, "the supervisor's program in its image")
	f.StringVar(&o.SupervisorMountPath, "supervisor-mount-path", DefaultSupervisorMount, "where sandboxes have the supervisor")
	f.StringVar(&o.Sideload, "supervisor-sideload", SideloadAuto, "how the supervisor gets into a pod: image-volume, init-container, or auto: an image volume from Kubernetes 1.35 on")
	f.StringVar(&o.CASecret, "tls-ca-secret", "", "secret whose ca.crt verifies the gateway; nothing else of it reaches a sandbox")
	f.StringVar(&o.ClientSecret, "tls-client-secret", "", "secret with a client certificate for supervisors; none if empty")
	f.StringVar(&o.DefaultImage, "default-image", "", "image of sandboxes that name none")
	f.StringVar(&o.ImagePullPolicy, "sandbox-image-pull-policy", "", "Always, IfNotPresent or Never; Kubernetes' default if empty")
	f.StringSliceVar(&o.PullSecrets, "image-pull-secrets", nil, "secrets with which images are pulled")
	f.StringVar(&o.ServiceAccount, "service-account", DefaultServiceAccount, "service account of sandboxes; the gateway accepts its tokens")
	f.StringVar(&o.TokenAudience, "sa-token-audience", DefaultTokenAudience, "audience of the token with which a supervisor shows who it is")
	f.Int64Var(&o.TokenSeconds, "sa-token-ttl-secs", DefaultTokenSeconds, "life of that token in seconds, from 600 to 86400")
	f.StringVar(&o.WorkspaceMode, "workspace-mode", Shared, "shared: one namespace; managed: one made for each workspace; operator: one labelled for each")
	f.StringVar(&o.NamespacePrefix, "namespace-prefix", "", "how the names of managed namespaces begin; openshell-GATEWAY-ID- by default")
	f.StringVar(&o.NamespaceLabel, "namespace-label", "", "NAME=VALUE of the operator's namespaces; openshell.ai/gateway-id=GATEWAY-ID by default")
	f.Int64Var(&o.QuotaPods, "quota-pods", 20, "pods that a managed namespace may have; 0 for no bound")
	f.StringVar(&o.QuotaCPU, "quota-cpu", "20", "CPU that a managed namespace may ask for; empty for no bound")
	f.StringVar(&o.QuotaMemory, "quota-memory", "40Gi", "memory that a managed namespace may ask for; empty for no bound")
	f.Int64Var(&o.QuotaClaims, "quota-claims", 20, "claims that a managed namespace may have; 0 for no bound")
	f.StringVar(&o.RuntimeClass, "runtime-class", "", "runtime class of sandboxes that name none")
	f.StringToStringVar(&o.NodeSelector, "node-selector", nil, "labels that nodes of sandboxes have, NAME=VALUE,...")
	f.StringVar(&own.tolerationsFile, "tolerations-file", "", "YAML file with a list of tolerations for sandboxes")
	f.StringVar(&o.WorkspaceSize, "workspace-storage-size", DefaultWorkspaceSize, "size of the claim at /sandbox; 0: a folder that lives as long as the pod")
	f.StringVar(&o.WorkspaceClass, "workspace-storage-class", "", "storage class of that claim; the cluster's default if empty")
	f.BoolVar(&o.WorkspaceSeed, "workspace-seed", true, "fill a new /sandbox with what the image has there")
	f.StringVar(&o.PodSecurity, "pod-security", manifest.Restricted, "Pod Security level that sandboxes keep to: restricted, baseline or privileged")
	f.StringSliceVar(&o.Capabilities, "capabilities", nil, "capabilities that the supervisor's isolation needs; the Pod Security level must allow them")
	f.BoolVar(&o.UserNamespaces, "user-namespaces", false, "give each sandbox a user namespace of its own")
	f.Int64Var(&o.UID, "sandbox-uid", DefaultUID, "user and group of sandboxes; -1 leaves the choice to the platform, as on OpenShift")
	f.StringVar(&o.HostGatewayIP, "host-gateway-ip", "", "address that host.openshell.internal and host.docker.internal mean in sandboxes")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file, outside of a cluster")
	f.Uint16Var(&own.metricsPort, "metrics-port", DefaultMetricsPort, "port of /metrics, /healthz and /readyz; 0 for none")
	f.UintSliceVar(&own.uids, "allow-uid", nil, "user id, besides root and this process's own, that may connect (repeatable)")
	f.StringVar(&own.logLevel, "log-level", "info", "debug, info, warn or error")
}

// readTolerations reads a list of tolerations.
func readTolerations(name string) ([]corev1.Toleration, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--tolerations-file: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxTolerations+1))
	if err != nil {
		return nil, fmt.Errorf("--tolerations-file: %w", err)
	}
	if len(raw) > maxTolerations {
		return nil, fmt.Errorf("--tolerations-file %s: larger than %d bytes", name, maxTolerations)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	var list []corev1.Toleration
	if err := yaml.UnmarshalStrict(raw, &list); err != nil {
		return nil, fmt.Errorf("--tolerations-file %s: no list of tolerations: %w", name, err)
	}
	return list, nil
}

// doubleDashes lets flags be written with one dash, as drivers of the reference take them.
func doubleDashes(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			out[i] = "-" + a
		}
	}
	return out
}

// fromEnv sets the flags that the command line left out from their variables.
func fromEnv(set *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	set.VisitAll(func(f *pflag.Flag) {
		name := variable(f.Name)
		value, ok := lookup(name)
		if !ok || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := set.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

const envPrefix = "SALLYPORT_DRIVER_"

// variable is the environment variable of a flag.
func variable(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// nearest names the flag that was most likely meant by one that there is not.
func nearest(set *pflag.FlagSet, wrong string) string {
	best, least := "", 4
	set.VisitAll(func(f *pflag.Flag) {
		if d := distance(wrong, f.Name); d < least {
			best, least = f.Name, d
		}
	})
	return best
}

// distance is how many letters differ between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := before
			if a[i-1] != b[j-1] {
				cost = 1 + min(before, row[j], row[j-1])
			}
			before, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}
