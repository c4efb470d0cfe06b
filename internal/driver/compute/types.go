// Package compute is the gateway's side of a compute driver: typed calls without wire messages, answers checked
// before anyone believes them, and a watch that survives the driver. It knows the contract
// openshell.compute.v1.ComputeDriver and nothing of what the gateway stores about a sandbox.
package compute

import (
	"log/slog"
	"time"
)

// TokenVariable carries a sandbox's own credential to a supervisor through any driver, also one that does not know
// the contract's field for it. Only the gateway sets it.
const TokenVariable = "OPENSHELL_SANDBOX_TOKEN"

// Capabilities is what a driver says of itself.
type Capabilities struct {
	Name    string
	Version string
	// DefaultImage is used where a sandbox names no image.
	DefaultImage string
	SupportsGPU  bool
	GPUCount     uint32
	// GatewayManagesLifecycle asks the gateway to start and stop sandboxes with itself.
	GatewayManagesLifecycle bool
}

// Spec is a sandbox as a driver is asked to create it.
type Spec struct {
	ID        string
	Name      string
	Workspace string
	LogLevel  string
	// Environment may hold no reserved name but TokenVariable, and that only with the value of Token.
	Environment map[string]string
	Template    Template
	// GPUs is how many GPUs are asked for: nil none, 0 any number.
	GPUs *uint32
	// GPUDevice picks a device by the older generation's name.
	GPUDevice string
	Command   []string
	TTY       bool
	// Token is the sandbox's own credential. It travels in the contract's field and as TokenVariable.
	Token string
}

// LogValue keeps what may be secret out of logs: environment, command and token.
func (s Spec) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", s.ID), slog.String("name", s.Name), slog.String("workspace", s.Workspace))
}

// Template is the image and its surroundings.
type Template struct {
	Image       string
	AgentSocket string
	Labels      map[string]string
	Environment map[string]string
	Annotations map[string]string
	// RuntimeClass is the platform's name of a container runtime.
	RuntimeClass string
	// Resources is the public form: "requests" and "limits", each a map. Text values of cpu and memory reach the
	// driver in fields of their own, everything else as it is.
	Resources map[string]any
	// VolumeClaimTemplates is the older generation's pass-through for claims.
	VolumeClaimTemplates map[string]any
	// DriverConfig is the part of the public driver configuration that is meant for this driver.
	DriverConfig map[string]any
	// UserNamespaces asks for, or refuses, a user namespace of the sandbox's own; nil leaves it to the driver.
	UserNamespaces *bool
}

// Condition is one observation of the driver, in the manner of Kubernetes.
type Condition struct {
	Type    string
	Status  string
	Reason  string
	Message string
	// LastTransition is the driver's text, usually RFC 3339.
	LastTransition string
}

// Snapshot is what a driver says of one sandbox at one moment.
type Snapshot struct {
	ID        string
	Name      string
	Workspace string
	// HasStatus is false where the driver knows of the sandbox and has not observed anything yet.
	HasStatus   bool
	Conditions  []Condition
	Deleting    bool
	InstanceID  string
	AgentFD     string
	SandboxFD   string
	SandboxName string
}

// PlatformEvent is something the platform did for a sandbox, for example pulling its image.
type PlatformEvent struct {
	Time     time.Time
	Source   string
	Type     string
	Reason   string
	Message  string
	Metadata map[string]string
}

// Bounds on answers. Ids and counts beyond them make an answer invalid; texts are cut.
const (
	maxSandboxes  = 100_000
	maxConditions = 64
	maxID         = 253
	maxWord       = 256
	maxText       = 4096
	maxMetadata   = 64
)
