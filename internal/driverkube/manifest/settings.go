package manifest

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod Security levels that pods of sandboxes can have.
const (
	Restricted = "restricted"
	Baseline   = "baseline"
	Privileged = "privileged"
)

// Settings is what the operator decided about all sandboxes.
type Settings struct {
	GatewayID string
	Tenant    string
	// GatewayEndpoint is what supervisors dial.
	GatewayEndpoint string
	// DefaultImage is used where a sandbox names none.
	DefaultImage    string
	ImagePullPolicy corev1.PullPolicy
	PullSecrets     []string

	Supervisor Supervisor

	// CASecret has the gateway's authority under ca.crt; ClientSecret, which may be empty, a client certificate.
	CASecret     string
	ClientSecret string

	ServiceAccount string
	TokenAudience  string
	TokenSeconds   int64

	// UID is the user and group of the sandbox's processes; negative leaves the choice to the platform.
	UID int64
	// Level is the Pod Security level to keep to; Capabilities, which only Baseline and Privileged allow, are added.
	Level          string
	Capabilities   []string
	UserNamespaces bool

	RuntimeClass string
	NodeSelector map[string]string
	Tolerations  []corev1.Toleration
	// HostGatewayIP, if any, is what host.openshell.internal and host.docker.internal mean in a sandbox.
	HostGatewayIP string

	// WorkspaceSize is the size of the claim at /sandbox; zero means that it lives as long as the pod.
	WorkspaceSize  resource.Quantity
	WorkspaceClass string
	// Seed has the workspace filled from what the image has at /sandbox.
	Seed bool
}

// Supervisor says how the supervisor gets into the pod.
type Supervisor struct {
	Image      string
	PullPolicy corev1.PullPolicy
	// Path is the program in the image, MountPath where the pod has it.
	Path      string
	MountPath string
	// Volume mounts the image itself; otherwise an init container copies the program.
	Volume bool
}
