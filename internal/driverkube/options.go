package driverkube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"sallyport.dev/sallyport/internal/driverkube/manifest"
)

// DriverName is what the driver calls itself towards gateways.
const DriverName = "kubernetes"

// Ways in which workspaces share namespaces.
const (
	// Shared puts all sandboxes into one namespace.
	Shared = "shared"
	// Managed gives each workspace a namespace that the driver makes.
	Managed = "managed"
	// Operator gives each workspace a namespace that somebody else made and labelled.
	Operator = "operator"
)

// Ways for the supervisor to get into a pod.
const (
	SideloadAuto   = "auto"
	SideloadVolume = "image-volume"
	SideloadInit   = "init-container"
)

// Options configures a Driver. Its fields are the flags of Command, where their meaning is.
type Options struct {
	Namespace  string
	Tenant     string
	GatewayID  string
	Kubeconfig string

	GatewayEndpoint string
	CASecret        string
	ClientSecret    string

	SupervisorImage      string
	SupervisorPullPolicy string
	SupervisorPath       string
	SupervisorMountPath  string
	Sideload             string

	DefaultImage    string
	ImagePullPolicy string
	PullSecrets     []string

	ServiceAccount string
	TokenAudience  string
	TokenSeconds   int64

	WorkspaceMode   string
	NamespacePrefix string
	NamespaceLabel  string
	QuotaPods       int64
	QuotaCPU        string
	QuotaMemory     string
	QuotaClaims     int64

	RuntimeClass   string
	NodeSelector   map[string]string
	Tolerations    []corev1.Toleration
	WorkspaceSize  string
	WorkspaceClass string
	WorkspaceSeed  bool

	PodSecurity    string
	Capabilities   []string
	UserNamespaces bool
	UID            int64
	HostGatewayIP  string

	// CallTimeout bounds each call of the API; 0 means half a minute.
	CallTimeout time.Duration
	Version     string
	Logger      *slog.Logger
}

// Defaults of the options that have one.
const (
	DefaultSocket          = "/run/drivers/compute/driver.sock"
	DefaultGatewayID       = "openshell"
	DefaultSupervisorPath  = "/openshell-sandbox"
	DefaultSupervisorMount = "/opt/openshell/bin"
	DefaultServiceAccount  = "openshell-sandbox"
	DefaultTokenAudience   = "openshell-gateway"
	DefaultTokenSeconds    = 3600
	DefaultWorkspaceSize   = "2Gi"
	DefaultUID             = 1000
	DefaultMetricsPort     = 9091

	minTokenSeconds = 600
	maxTokenSeconds = 86400
)

// capabilities that the two stricter Pod Security levels let containers add.
var (
	restrictedCapabilities = []string{"NET_BIND_SERVICE"}
	baselineCapabilities   = []string{
		"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
		"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	}
)

var capabilityName = regexp.MustCompile(`^[A-Z][A-Z_]*$`)

// complete fills in what follows from other options and reports everything that is wrong at once.
func (o *Options) complete() error {
	if o.Tenant == "" {
		o.Tenant = o.Namespace
	}
	if o.NamespacePrefix == "" {
		o.NamespacePrefix = "openshell-" + o.GatewayID + "-"
	}
	if o.NamespaceLabel == "" {
		o.NamespaceLabel = manifest.LabelGateway + "=" + o.GatewayID
	}
	// Kubernetes gives no shorter tokens, and longer ones are no better than a password.
	o.TokenSeconds = min(max(o.TokenSeconds, minTokenSeconds), maxTokenSeconds)
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--"+flag+": "+format, args...))
	}
	if !manifest.ValidName(o.Namespace) {
		bad("namespace", "%q is no name of a namespace; it is the pod's own where POD_NAMESPACE or a service account tells", o.Namespace)
	}
	if !manifest.ValidLabel(o.GatewayID) {
		bad("gateway-id", "%q cannot be the value of a label: use letters, digits and hyphens", o.GatewayID)
	}
	if u, err := url.Parse(o.GatewayEndpoint); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "" {
		bad("gateway-endpoint", "%q: give https://host:port, as sandboxes reach the gateway", o.GatewayEndpoint)
	}
	if o.SupervisorImage == "" {
		bad("supervisor-image", "is required")
	}
	for flag, p := range map[string]string{"supervisor-binary-path": o.SupervisorPath, "supervisor-mount-path": o.SupervisorMountPath} {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			bad(flag, "%q is no clean absolute path", p)
		}
	}
	oneOf := func(flag, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			bad(flag, "%q: use %s", value, strings.Join(allowed, ", "))
		}
	}
	oneOf("supervisor-sideload", o.Sideload, SideloadAuto, SideloadVolume, SideloadInit)
	oneOf("workspace-mode", o.WorkspaceMode, Shared, Managed, Operator)
	oneOf("pod-security", o.PodSecurity, manifest.Restricted, manifest.Baseline, manifest.Privileged)
	for flag, policy := range map[string]string{"supervisor-image-pull-policy": o.SupervisorPullPolicy, "sandbox-image-pull-policy": o.ImagePullPolicy} {
		if policy != "" {
			oneOf(flag, policy, string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever))
		}
	}
	if !manifest.ValidName(o.ServiceAccount) {
		bad("service-account", "%q is no name of a service account", o.ServiceAccount)
	}
	if o.TokenAudience == "" {
		bad("sa-token-audience", "is required")
	}
	if o.HostGatewayIP != "" && net.ParseIP(o.HostGatewayIP) == nil {
		bad("host-gateway-ip", "%q is no IP address", o.HostGatewayIP)
	}
	if o.WorkspaceMode == Managed && !manifest.ValidName(o.NamespacePrefix+"x") {
		bad("namespace-prefix", "%q cannot begin the name of a namespace", o.NamespacePrefix)
	}
	if key, value, ok := strings.Cut(o.NamespaceLabel, "="); o.WorkspaceMode == Operator && (!ok || key == "" || !manifest.ValidLabel(value)) {
		bad("namespace-label", "%q: give NAME=VALUE", o.NamespaceLabel)
	}
	errs = append(errs, o.checkSecurity()...)
	errs = append(errs, o.checkQuantities()...)
	if o.Logger == nil {
		errs = append(errs, errors.New("no logger given"))
	}
	return errors.Join(errs...)
}

func (o *Options) checkSecurity() []error {
	var errs []error
	allowed := restrictedCapabilities
	if o.PodSecurity == manifest.Baseline {
		allowed = baselineCapabilities
	}
	for i, c := range o.Capabilities {
		c = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		o.Capabilities[i] = c
		switch {
		case !capabilityName.MatchString(c):
			errs = append(errs, fmt.Errorf("--capabilities: %q is no name of a capability", c))
		case o.PodSecurity != manifest.Privileged && !slices.Contains(allowed, c):
			errs = append(errs, fmt.Errorf("--capabilities: the Pod Security level %s does not allow %s; set --pod-security to one that does", o.PodSecurity, c))
		}
	}
	if o.UID == 0 && o.PodSecurity == manifest.Restricted {
		errs = append(errs, fmt.Errorf("--sandbox-uid: the Pod Security level %s does not allow root", o.PodSecurity))
	}
	if o.UID > 1<<31-1 {
		errs = append(errs, fmt.Errorf("--sandbox-uid: %d is no user id", o.UID))
	}
	return errs
}

func (o *Options) checkQuantities() []error {
	var errs []error
	for flag, text := range map[string]string{
		"workspace-storage-size": o.WorkspaceSize, "quota-cpu": o.QuotaCPU, "quota-memory": o.QuotaMemory,
	} {
		if text == "" {
			continue
		}
		if q, err := resource.ParseQuantity(text); err != nil || q.Sign() < 0 {
			errs = append(errs, fmt.Errorf("--%s: %q is no amount such as 2Gi", flag, text))
		}
	}
	if o.QuotaPods < 0 || o.QuotaClaims < 0 {
		errs = append(errs, errors.New("--quota-pods and --quota-claims: give 0 or more"))
	}
	return errs
}

// settings are what the objects of sandboxes are built with.
func (o *Options) settings(volume bool) *manifest.Settings {
	size := resource.Quantity{}
	if o.WorkspaceSize != "" {
		size = resource.MustParse(o.WorkspaceSize) // checked by complete
	}
	return &manifest.Settings{
		GatewayID: o.GatewayID, Tenant: o.Tenant, GatewayEndpoint: o.GatewayEndpoint,
		DefaultImage: o.DefaultImage, ImagePullPolicy: corev1.PullPolicy(o.ImagePullPolicy), PullSecrets: o.PullSecrets,
		Supervisor: manifest.Supervisor{
			Image: o.SupervisorImage, PullPolicy: corev1.PullPolicy(o.SupervisorPullPolicy),
			Path: o.SupervisorPath, MountPath: o.SupervisorMountPath, Volume: volume,
		},
		CASecret: o.CASecret, ClientSecret: o.ClientSecret,
		ServiceAccount: o.ServiceAccount, TokenAudience: o.TokenAudience, TokenSeconds: o.TokenSeconds,
		UID: o.UID, Level: o.PodSecurity, Capabilities: o.Capabilities, UserNamespaces: o.UserNamespaces,
		RuntimeClass: o.RuntimeClass, NodeSelector: o.NodeSelector, Tolerations: o.Tolerations, HostGatewayIP: o.HostGatewayIP,
		WorkspaceSize: size, WorkspaceClass: o.WorkspaceClass, Seed: o.WorkspaceSeed,
	}
}
