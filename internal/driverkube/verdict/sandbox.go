package verdict

import (
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
)

// SandboxState is what is kept of a Sandbox object.
type SandboxState struct {
	Created time.Time
	// Deleting tells that the object goes; Since since when what is told of it holds.
	Deleting bool
	// Stop tells that it is meant to be stopped, Stopped that the controller says it is.
	Stop, Stopped bool
	// Seen tells that the controller has taken the object up.
	Seen  bool
	Since time.Time
	// Problem is what the controller itself reports.
	Problem *Problem
}

// OfSandbox judges a Sandbox object by itself.
func OfSandbox(s *Sandbox) SandboxState {
	out := SandboxState{
		Created: s.Metadata.CreationTimestamp, Since: s.Metadata.CreationTimestamp, Deleting: s.Metadata.DeletionTimestamp != nil,
		Seen: len(s.Status.Conditions) > 0,
	}
	if out.Deleting {
		out.Since = *s.Metadata.DeletionTimestamp
		return out
	}
	out.Stop = s.Spec.OperatingMode == "Suspended" || s.Spec.Replicas != nil && *s.Spec.Replicas == 0
	ready, suspended := find(s.Status.Conditions, "Ready"), find(s.Status.Conditions, "Suspended")
	if ready != nil && !ready.LastTransitionTime.IsZero() {
		out.Since = ready.LastTransitionTime
	}
	// Conditions outlive what they told of: only those of this very generation count.
	current := func(c *Condition) bool { return c != nil && c.ObservedGeneration >= s.Metadata.Generation }
	switch {
	case out.Stop && current(suspended) && suspended.Status == "True":
		out.Stopped = true
		out.Since = suspended.LastTransitionTime
	case out.Stop && suspended == nil && current(ready):
		// Controllers of the older version have no such condition; they count pods.
		out.Stopped = s.Status.Replicas == nil || *s.Status.Replicas == 0
	case out.Stop && current(suspended) && suspended.Reason == "PodNotOwned":
		out.Problem = &Problem{NameTaken, kubeapi.Clean(suspended.Message)}
	}
	if ready != nil && ready.Status == "False" && current(ready) && !out.Stop {
		out.Problem = reported(ready)
	}
	return out
}

// reported reads a problem of the controller's own; what it only repeats of the pod is read from the pod.
func reported(ready *Condition) *Problem {
	switch ready.Reason {
	case "SandboxExpired":
		return &Problem{Expired, kubeapi.Clean(ready.Message)}
	case "MultiplePods":
		return &Problem{SeveralPods, kubeapi.Clean(ready.Message)}
	case "ReconcilerError":
		return reconciling(ready.Message)
	}
	return nil
}

// reconciling classifies what the API server told the controller when it made the pod or a claim.
func reconciling(message string) *Problem {
	if quota, ok := kubeapi.Quota(message); ok {
		return &Problem{QuotaExceeded, quota}
	}
	detail := kubeapi.Clean(strings.TrimPrefix(message, "Error seen: "))
	lower := strings.ToLower(detail)
	switch {
	case strings.Contains(lower, "error looking up service account"):
		return &Problem{AccountAbsent, detail}
	case strings.Contains(lower, " is owned by sandbox/"):
		// The names of pods and claims follow from the sandbox's: their owner had this name before.
		return &Problem{NameLeft, detail}
	case strings.Contains(lower, "cannot adopt"), strings.Contains(lower, " is owned by "):
		return &Problem{NameTaken, detail}
	case strings.Contains(lower, "is forbidden"), strings.Contains(lower, "is invalid"), strings.Contains(lower, "denied the request"):
		return &Problem{PodRefused, detail}
	}
	return &Problem{Controller, detail}
}

// Note is what an event tells that neither object shows.
type Note struct {
	*Problem
	Time time.Time
}

// notes tells which events explain a pod that does not get on.
var notes = map[string]*Reason{
	"FailedMount":            MountFailed,
	"FailedAttachVolume":     MountFailed,
	"FailedMapVolume":        MountFailed,
	"FailedCreatePodSandBox": PodSandbox,
	"NetworkNotReady":        PodSandbox,
	"ProvisioningFailed":     VolumeFailed,
	"FailedBinding":          VolumeUnbound,
}

// OfEvent returns what an event explains, nil if nothing.
func OfEvent(e *Event) *Note {
	reason := notes[e.Reason]
	if reason == nil || e.Type != "Warning" && reason != VolumeUnbound {
		return nil
	}
	if reason == PodSandbox && strings.Contains(e.Message, "OOM-killed") {
		reason = OutOfMemoryUp
	}
	return &Note{Problem: &Problem{reason, kubeapi.Clean(e.Message)}, Time: e.Time()}
}

// Status is what is told of a sandbox.
type Status struct {
	Deleting  bool
	Ready     bool
	Suspended bool
	Reason    string
	Message   string
	Since     time.Time
	Problem   *Problem
}

// unseen is how a sandbox begins.
const unseen = "the Sandbox controller has not taken the sandbox up yet; next: if this stays, check that the agent-sandbox controller runs"

// Compose makes one status of what is known. pod is nil where there is none of this sandbox's own; note explains a
// pod that is on its way.
func Compose(s *SandboxState, pod *PodState, note *Note) Status {
	switch {
	case s.Deleting:
		return Status{Deleting: true, Reason: ReadyDeleting, Message: "the sandbox is being deleted", Since: s.Since}
	case s.Stop && s.Stopped && pod == nil:
		return Status{Suspended: true, Reason: ReadyStopped, Message: "the sandbox is stopped", Since: s.Since}
	case s.Stop && s.Problem != nil:
		return troubled(s.Problem, s.Since)
	case s.Stop:
		return Status{Reason: ReadyWaiting, Message: "the sandbox is being stopped", Since: s.Since}
	case s.Problem != nil && !s.Problem.Passing:
		return troubled(s.Problem, s.Since)
	case pod != nil && pod.Ready:
		return Status{Ready: true, Reason: ReadyTrue, Message: "the pod is ready on node " + pod.Node, Since: pod.Since}
	case pod != nil && pod.Problem != nil:
		problem := pod.Problem
		// The volume's own event says more than the scheduler does.
		if note != nil && problem.Reason == VolumeUnbound && note.Reason == VolumeFailed {
			problem = note.Problem
		}
		return troubled(problem, pod.Since)
	case pod != nil && pod.Starting && note != nil && note.Time.Add(noteLife).After(pod.Since):
		return troubled(note.Problem, pod.Since)
	case pod != nil && pod.Node != "":
		return Status{Reason: ReadyWaiting, Message: "the pod starts on node " + pod.Node, Since: pod.Since}
	case pod != nil:
		return Status{Reason: ReadyWaiting, Message: "the pod waits for a node", Since: pod.Since}
	case s.Problem != nil:
		return troubled(s.Problem, s.Since)
	case !s.Seen:
		return Status{Reason: ReadyStarting, Message: unseen, Since: s.Since}
	}
	return Status{Reason: ReadyWaiting, Message: "the pod is being made", Since: s.Since}
}

// noteLife lets an event stand that came before the pod it explains, as one about its volume.
const noteLife = time.Minute

func troubled(p *Problem, since time.Time) Status {
	s := Status{Reason: p.Word, Message: p.Message(), Since: since, Problem: p}
	if p.Passing {
		// The reason of a passing problem stands in its own condition: gateways take words they do not know for the end.
		s.Reason, s.Message = ReadyWaiting, p.Word+": "+s.Message
	}
	return s
}
