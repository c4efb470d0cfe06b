package verdict

import (
	"fmt"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
)

// agent is the container that runs the supervisor.
const agent = "agent"

// crashesBeforeError is how often the supervisor may crash in a row before the sandbox counts as failed.
const crashesBeforeError = 5

// PodState is what is kept of a pod.
type PodState struct {
	UID  string
	Node string
	// Owner is the UID of the object that controls the pod.
	Owner string
	Ready bool
	// Ending tells that the pod is being deleted; Over that its containers will not run again.
	Ending bool
	Over   bool
	// Starting tells that no container has run yet.
	Starting bool
	Restarts int32
	// Restarted tells how the supervisor ended before its last restart, nil if it had none.
	Restarted *Problem
	Since     time.Time
	Problem   *Problem
}

// OfPod judges a pod by itself.
func OfPod(p *Pod) PodState {
	s := PodState{UID: p.Metadata.UID, Node: p.Spec.NodeName, Ending: p.Metadata.DeletionTimestamp != nil, Since: p.Metadata.CreationTimestamp}
	for _, o := range p.Metadata.Owners {
		if o.Controller {
			s.Owner = o.UID
		}
	}
	for i := range p.Status.Containers {
		c := &p.Status.Containers[i]
		if c.Name != agent {
			continue
		}
		if s.Restarts = c.RestartCount; c.RestartCount > 0 && c.Last.Terminated != nil {
			s.Restarted = crashed(c, c.Last.Terminated, false)
		}
	}
	ready := find(p.Status.Conditions, "Ready")
	if ready != nil && !ready.LastTransitionTime.IsZero() {
		s.Since = ready.LastTransitionTime
	}
	s.Over = p.Status.Phase == "Failed" || p.Status.Phase == "Succeeded"
	s.Starting = p.Status.Phase == "Pending"
	s.Ready = p.Status.Phase == "Running" && !s.Ending && ready != nil && ready.Status == "True"
	if !s.Ready {
		s.Problem = problemOf(p, &s, ready)
	}
	return s
}

func problemOf(p *Pod, s *PodState, ready *Condition) *Problem {
	switch {
	case s.Ending:
		return ending(p)
	case p.Status.Phase == "Succeeded":
		return &Problem{Exited, "the supervisor ended with exit code 0"}
	case p.Status.Phase == "Failed":
		return failed(p)
	}
	if c := find(p.Status.Conditions, "PodScheduled"); c != nil && c.Status == "False" {
		return unscheduled(c)
	}
	for i := range p.Status.Init {
		if problem := ofContainer(&p.Status.Init[i], true); problem != nil {
			return problem
		}
	}
	for i := range p.Status.Containers {
		c := &p.Status.Containers[i]
		if problem := ofContainer(c, false); problem != nil {
			return problem
		}
		if c.Name == agent && c.Ready && ready != nil && ready.Status == "False" {
			// The kubelet says that the container is fine; somebody else took the pod's readiness away.
			return &Problem{NodeLost, "node " + p.Spec.NodeName + " does not answer"}
		}
	}
	return nil
}

// ending words why a pod of a sandbox that should run goes away.
func ending(p *Pod) *Problem {
	c := find(p.Status.Conditions, "DisruptionTarget")
	if c == nil || c.Status != "True" {
		return &Problem{Disrupted, "the pod is being deleted"}
	}
	switch c.Reason {
	case "DeletionByTaintManager", "DeletionByPodGC":
		return &Problem{NodeLost, "the pod is taken off node " + p.Spec.NodeName + ": " + kubeapi.Clean(c.Message)}
	case "PreemptionByScheduler":
		return &Problem{Disrupted, "the pod makes room for a more important one"}
	case "EvictionByEvictionAPI":
		return &Problem{Disrupted, "the pod is evicted from node " + p.Spec.NodeName}
	}
	return &Problem{Disrupted, kubeapi.Clean(c.Reason + ": " + c.Message)}
}

// failed words how a pod failed for good.
func failed(p *Pod) *Problem {
	detail := kubeapi.Clean(p.Status.Message)
	switch p.Status.Reason {
	case "Evicted":
		return &Problem{Evicted, detail}
	case "DeadlineExceeded":
		return &Problem{Deadline, detail}
	case "NodeLost":
		return &Problem{NodeShutdown, detail}
	case "Terminated", "NodeShutdown", "Shutdown":
		return &Problem{NodeShutdown, detail}
	case "":
	default:
		return &Problem{NodeRefused, kubeapi.Clean(p.Status.Reason + ": " + p.Status.Message)}
	}
	for _, list := range [][]Container{p.Status.Init, p.Status.Containers} {
		for i := range list {
			if t := list[i].State.Terminated; t != nil && t.ExitCode != 0 {
				if t.Reason == "OOMKilled" {
					return &Problem{OutOfMemory, "container " + list[i].Name + " ran out of memory"}
				}
				return &Problem{Failed, "container " + list[i].Name + " " + howEnded(t)}
			}
		}
	}
	return &Problem{Failed, detail}
}

func unscheduled(c *Condition) *Problem {
	detail := kubeapi.Clean(c.Message)
	lower := strings.ToLower(detail)
	switch {
	case strings.Contains(lower, "unbound immediate persistentvolumeclaim"), strings.Contains(lower, "persistentvolumeclaim") && strings.Contains(lower, "not found"),
		strings.Contains(lower, "persistent volumes to bind"):
		return &Problem{VolumeUnbound, detail}
	case c.Reason == "SchedulingGated":
		return &Problem{Unschedulable, "the pod's scheduling is gated: " + detail}
	}
	return &Problem{Unschedulable, detail}
}

// waiting tells which reason a container's waiting has; what is not there is on its way.
var waiting = map[string]*Reason{
	"ErrImagePull":               ImagePull,
	"ImagePullBackOff":           ImageBackOff,
	"ImageInspectError":          ImageBackOff,
	"RegistryUnavailable":        ImagePull,
	"SignatureValidationFailed":  ImageBackOff,
	"InvalidImageName":           ImageName,
	"ErrImageNeverPull":          ImageNever,
	"CreateContainerConfigError": ConfigError,
	"CreateContainerError":       CreateError,
	"RunContainerError":          CreateError,
	"PreCreateHookError":         CreateError,
	"PostStartHookError":         CreateError,
}

func ofContainer(c *Container, init bool) *Problem {
	if w := c.State.Waiting; w != nil {
		if reason := waiting[w.Reason]; reason != nil {
			return &Problem{reason, kubeapi.Clean(c.Name + ": " + w.Message)}
		}
		if w.Reason == "CrashLoopBackOff" {
			return crashed(c, c.Last.Terminated, init)
		}
		return nil
	}
	if t := c.State.Terminated; t != nil && (t.ExitCode != 0 || !init) {
		return crashed(c, t, init)
	}
	return nil
}

// crashed words a container that ended and will be started again.
func crashed(c *Container, t *Terminated, init bool) *Problem {
	detail := "container " + c.Name
	if t != nil {
		detail += " " + howEnded(t)
	}
	if c.RestartCount > 0 {
		detail += fmt.Sprintf(", restarted %d times", c.RestartCount)
	}
	reason := Restarting
	switch {
	case t != nil && t.Reason == "OOMKilled" && c.RestartCount >= crashesBeforeError:
		reason = OutOfMemory
	case t != nil && t.Reason == "OOMKilled":
		reason = OutOfMemoryUp
	case init && c.RestartCount > 1:
		reason = InitFailed
	case c.RestartCount >= crashesBeforeError:
		reason = CrashLoop
	}
	return &Problem{reason, detail}
}

func howEnded(t *Terminated) string {
	text := fmt.Sprintf("ended with exit code %d", t.ExitCode)
	if t.Signal != 0 {
		text = fmt.Sprintf("was ended by signal %d", t.Signal)
	}
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		text += " (" + t.Reason + ")"
	}
	if t.Message != "" {
		text += ": " + kubeapi.Clean(t.Message)
	}
	return text
}

func find(all []Condition, kind string) *Condition {
	for i := range all {
		if all[i].Type == kind {
			return &all[i]
		}
	}
	return nil
}
