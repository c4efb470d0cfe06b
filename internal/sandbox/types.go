// Package sandbox owns sandboxes: what they are, who may change them when, and how what the driver reports and
// what the supervisor does become one phase. It speaks no wire dialect and reads no transport header; drivers,
// sessions, providers and the store come in through its constructor.
package sandbox

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/settings"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the store's kind of sandboxes.
const Kind store.Kind = "sandbox"

// DefaultWorkspace is meant by an empty workspace.
const DefaultWorkspace = "default"

// Phase is the state of a sandbox as clients see it. The values are the wire's, see SandboxPhase of openshell.v1.
type Phase int32

// The phases. Stopping, Stopped and Starting are unknown to clients of the mvp generation.
const (
	PhaseUnspecified  Phase = 0
	PhaseProvisioning Phase = 1
	PhaseReady        Phase = 2
	PhaseError        Phase = 3
	PhaseDeleting     Phase = 4
	PhaseUnknown      Phase = 5
	PhaseStopping     Phase = 6
	PhaseStopped      Phase = 7
	PhaseStarting     Phase = 8
)

// Condition is one observation about a sandbox, in the manner of Kubernetes.
type Condition struct {
	Type           string `json:"type"`
	Status         string `json:"status"`
	Reason         string `json:"reason,omitempty"`
	Message        string `json:"message,omitempty"`
	LastTransition string `json:"lastTransition,omitempty"`
}

// Course is where the last stop or start of a sandbox stands. It is what was asked for, not what a driver reports.
type Course string

// The courses.
const (
	// CourseRun is of a sandbox that runs, or that the driver is to have running: nobody stopped it, or a start has ended.
	CourseRun Course = ""
	// CourseStopping is of one that the driver is to stop.
	CourseStopping Course = "stopping"
	// CourseStopped is of one that the driver has stopped; what it keeps is the driver's to say.
	CourseStopped Course = "stopped"
	// CourseStarting is of one that the driver is to start, until its supervisor has come.
	CourseStarting Course = "starting"
)

// Failure is the gateway's own verdict that a sandbox cannot work. It ends when the driver reports on the sandbox again.
type Failure struct {
	// Reason is one of the Reason constants of conditions below.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Reasons of Ready=False that the gateway itself sets.
const (
	// ConditionStopping and the next two say how far a stop or start is.
	ConditionStopping = "Stopping"
	ConditionStopped  = "Stopped"
	ConditionStarting = "Starting"
	// ConditionComputeLost means that the driver's list lacks a sandbox that was stopped, or on its way there or back.
	ConditionComputeLost = "ComputeResourceMissing"
	// ConditionBackendLost means that a stop or start found nothing at the driver.
	ConditionBackendLost = "BackendResourceMissing"
	// ConditionStartFailed means that the driver could not start the sandbox with the gateway.
	ConditionStartFailed = "StartFailed"
)

// Condition types.
const (
	ConditionReady     = "Ready"
	ConditionSuspended = "Suspended"
	// ConditionIsolation is set by drivers that report what isolation a sandbox really has.
	ConditionIsolation = "Isolation"
)

// Template is the image and its surroundings.
type Template struct {
	Image            string            `json:"image,omitempty"`
	RuntimeClassName string            `json:"runtimeClassName,omitempty"`
	AgentSocket      string            `json:"agentSocket,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	Annotations      map[string]string `json:"annotations,omitempty"`
	Environment      map[string]string `json:"environment,omitempty"`
	// Resources, VolumeClaimTemplates and DriverConfig pass through as JSON objects.
	Resources            map[string]any `json:"resources,omitempty"`
	VolumeClaimTemplates map[string]any `json:"volumeClaimTemplates,omitempty"`
	DriverConfig         map[string]any `json:"driverConfig,omitempty"`
	UserNamespaces       *bool          `json:"userNamespaces,omitempty"`
}

// Spec is what the creator asked for. It does not change after creation, but for the providers, which are attached and
// detached, and for the policy of a sandbox that was created without one, which is filled in with the first one it gets.
type Spec struct {
	LogLevel    string            `json:"logLevel,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Template    Template          `json:"template"`
	// Policy is an encoded openshell.sandbox.v1.SandboxPolicy, empty for none. It passes through whole. What of it is
	// applied at the start of a sandbox binds all later policies.
	Policy    []byte   `json:"policy,omitempty"`
	Providers []string `json:"providers,omitempty"`
	// GPUs is the number of GPUs asked for; nil for none, 0 for "any number" of the older generation.
	GPUs      *uint32  `json:"gpus,omitempty"`
	GPUDevice string   `json:"gpuDevice,omitempty"`
	Command   []string `json:"command,omitempty"`
	TTY       bool     `json:"tty,omitempty"`
}

// Record is the stored state of a sandbox: what was asked for and what the driver last said. Whether the
// supervisor is connected is not stored; it is composed on reading.
type Record struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	Spec        Spec              `json:"spec"`
	// Accepted is false from the moment the intent is stored until the driver took it over.
	Accepted bool `json:"accepted"`
	// DeletionTimestamp is set once deletion was asked for; the row goes when the driver has nothing left.
	DeletionTimestamp time.Time `json:"deletionTimestamp,omitzero"`
	// Course is where the last stop or start stands, since CourseSince. It is stored before the driver is asked.
	Course      Course    `json:"course,omitempty"`
	CourseSince time.Time `json:"courseSince,omitzero"`
	// PriorInstance is the supervisor's instance that ran before the last stop. It does not come back with a start.
	PriorInstance string `json:"priorInstance,omitempty"`
	// Failure is set where the sandbox's resource is lost.
	Failure *Failure `json:"failure,omitempty"`
	// DriverPhase is what the driver's last snapshot alone amounts to.
	DriverPhase Phase `json:"driverPhase"`
	// Driver fields are copied from the last snapshot.
	Conditions []Condition `json:"conditions,omitempty"`
	InstanceID string      `json:"instanceId,omitempty"`
	AgentFD    string      `json:"agentFd,omitempty"`
	SandboxFD  string      `json:"sandboxFd,omitempty"`
	DriverName string      `json:"driverName,omitempty"`
	// PolicyVersion is the policy revision that the supervisor reported as loaded, 0 for none.
	PolicyVersion uint32 `json:"policyVersion,omitempty"`
	// PolicyError is the supervisor's load error of the policy in Spec, as long as PolicyNewest is 0.
	PolicyError string `json:"policyError,omitempty"`
	// PolicyNewest is the number of the newest stored revision of the policy. With 0 there is none but, where Spec has a
	// policy, that one.
	PolicyNewest uint32 `json:"policyNewest,omitempty"`
	// Settings are the sandbox's own values, which those of all sandboxes hide. SettingsRevision counts their changes.
	Settings         settings.Values `json:"settings,omitempty"`
	SettingsRevision uint64          `json:"settingsRevision,omitempty"`
	// ExitCode is how the main process of the supervisor ExitInstance ended.
	ExitCode     *int32 `json:"exitCode,omitempty"`
	ExitInstance string `json:"exitInstance,omitempty"`
}

// Sandbox is one sandbox as callers see it: the stored row, decoded, composed with its session. It is shared
// between readers and never changed.
type Sandbox struct {
	// Object is the stored row; ID, name, workspace, owner, labels, version and times are read from it.
	Object *store.Object
	*Record
	Phase Phase
	// Status is Record.Conditions with the session taken into account.
	Status []Condition
	// MainInstanceID is the connected supervisor's instance id.
	MainInstanceID string
	// Connected tells whether a supervisor session is live.
	Connected bool
	// Exited is the exit code of the main process, nil while it runs or runs again.
	Exited *int32

	wire atomic.Pointer[[]byte]
}

// Wire returns what build made of this very state of the sandbox, made once. It is where an edge keeps the
// encoded form that most reads answer with.
func (s *Sandbox) Wire(build func(*Sandbox) ([]byte, error)) ([]byte, error) {
	if b := s.wire.Load(); b != nil {
		return *b, nil
	}
	b, err := build(s)
	if err != nil {
		return nil, err
	}
	s.wire.Store(&b)
	return b, nil
}

type recordKey struct{}

// decode returns the object's record, decoded once a version.
func decode(o *store.Object) (*Record, error) {
	return memo(o, recordKey{}, func() (*Record, error) {
		r := &Record{}
		if err := json.Unmarshal(o.Payload, r); err != nil {
			return nil, err
		}
		return r, nil
	})
}

// memo is Object.Memo for one type of value.
func memo[T any](o *store.Object, key any, build func() (T, error)) (T, error) {
	var zero T
	v, err := o.Memo(key, func() (any, error) { return build() })
	if err != nil {
		return zero, err
	}
	t, ok := v.(T)
	if !ok {
		return zero, fmt.Errorf("memo holds %T", v)
	}
	return t, nil
}

func (r *Record) encode() ([]byte, error) { return json.Marshal(r) }
