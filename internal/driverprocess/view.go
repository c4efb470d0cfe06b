//go:build linux

package driverprocess

import (
	"strconv"
	"time"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Reasons of the Ready condition. Starting is one that gateways of both generations take as passing; the
// others mean that the sandbox will not become ready by itself.
const (
	reasonStarting = "Starting"
	reasonRunning  = "SupervisorRunning"
	reasonExited   = "SupervisorExited"
	reasonStopped  = "ContainerStopped"
	reasonDeleting = "Deleting"
)

// view is what is told of a sandbox. It is guarded by the driver's mutex.
type view struct {
	id, name, namespace, workspace string

	ready           bool
	reason, message string
	since           time.Time
	deleting        bool

	// pid is the first process's, 0 without one.
	pid       int
	isolation isolation
	// groups is what the control groups enforce, and why not more.
	groups         string
	isolationSince time.Time
}

func (v *view) set(ready bool, reason, message string) {
	if v.ready != ready || v.reason != reason || v.since.IsZero() {
		v.since = time.Now()
	}
	v.ready, v.reason, v.message = ready, reason, message
}

func (v *view) setIsolation(rec processRecord) {
	if v.isolation != rec.Isolation || v.isolationSince.IsZero() {
		v.isolationSince = time.Now()
	}
	v.isolation, v.groups = rec.Isolation, rec.Groups
}

// snapshot has no spec: what was asked for is the gateway's to know, and holds its user's values.
func (v *view) snapshot() *computepb.DriverSandbox {
	conditions := []*computepb.DriverCondition{condition("Ready", v.ready, v.reason, v.message, v.since), v.isolationCondition()}
	if v.reason == reasonStopped {
		conditions = append(conditions, condition("Suspended", true, reasonStopped, "the sandbox is stopped", v.since))
	}
	status := &computepb.DriverSandboxStatus{SandboxName: v.name, Conditions: conditions, Deleting: v.deleting}
	if v.pid > 0 {
		status.InstanceId = "process-" + strconv.Itoa(v.pid)
	}
	return &computepb.DriverSandbox{Id: v.id, Name: v.name, Namespace: v.namespace, Workspace: v.workspace, Status: status}
}

func (v *view) isolationCondition() *computepb.DriverCondition {
	reason := "Isolated"
	if !v.isolation.complete() {
		reason = "IsolationDegraded"
	}
	message := v.isolation.String() + " " + v.groups + "; network: shared with the host (no egress control yet)"
	if v.isolation.Reason != "" {
		message += "; missing: " + v.isolation.Reason
	}
	return condition("Isolation", v.isolation.complete(), reason, message, v.isolationSince)
}

func condition(kind string, on bool, reason, message string, since time.Time) *computepb.DriverCondition {
	status := "False"
	if on {
		status = "True"
	}
	return &computepb.DriverCondition{
		Type: kind, Status: status, Reason: reason, Message: message,
		LastTransitionTime: since.UTC().Format(time.RFC3339),
	}
}
