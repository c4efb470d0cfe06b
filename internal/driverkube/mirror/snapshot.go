package mirror

import (
	"strings"
	"time"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

// Conditions besides Ready and Suspended.
const (
	conditionProblem   = "Problem"
	conditionIsolation = "Isolation"
)

// snapshot has no spec: what was asked for is the gateway's to know, and holds its user's values.
func (e *entry) snapshot() *computepb.DriverSandbox {
	s := e.status()
	conditions := make([]*computepb.DriverCondition, 0, 4)
	conditions = append(conditions, condition("Ready", s.Ready, s.Reason, s.Message, s.Since))
	if s.Suspended {
		conditions = append(conditions, condition("Suspended", true, verdict.Stopped, s.Message, s.Since))
	}
	if s.Problem != nil {
		conditions = append(conditions, condition(conditionProblem, true, s.Problem.Word, s.Problem.Message(), s.Since))
	}
	if text := e.isolation.Value(); text != "" {
		whole := !strings.Contains(text, manifest.Degraded)
		reason := "Isolated"
		if !whole {
			reason = "IsolationDegraded"
		}
		conditions = append(conditions, condition(conditionIsolation, whole, reason, text, e.sandbox.Created))
	}
	status := &computepb.DriverSandboxStatus{SandboxName: e.name, Conditions: conditions, Deleting: s.Deleting}
	if e.pod != nil {
		status.InstanceId = e.pod.UID
	}
	return &computepb.DriverSandbox{
		Id: e.id, Name: e.name, Namespace: e.namespace.Value(), Workspace: e.workspace.Value(), Status: status,
	}
}

func (e *entry) status() verdict.Status { return verdict.Compose(&e.sandbox, e.pod, e.note) }

func condition(kind string, on bool, reason, message string, since time.Time) *computepb.DriverCondition {
	status := "False"
	if on {
		status = "True"
	}
	return &computepb.DriverCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: since.UTC().Format(time.RFC3339),
	}
}

// Snapshot judges objects that were just read from the API, for whom the mirror is not sure enough.
func Snapshot(s *verdict.Sandbox, pod *verdict.Pod) *computepb.DriverSandbox {
	e := newEntry(s)
	if pod != nil {
		if state := verdict.OfPod(pod); state.Owner == e.uid {
			e.pod = &state
		}
	}
	return e.snapshot()
}
