package verdict

// Reason is one thing that can be wrong with a sandbox.
type Reason struct {
	// Word is stable: tests, alerts and people match it.
	Word string
	// Passing tells that Kubernetes goes on trying and that this usually helps; otherwise the sandbox is in error
	// until somebody does something.
	Passing bool
	// Next is what to do about it.
	Next string
}

// The reasons. docs/drivers-kubernetes.md lists them all; a test compares.
var (
	Unschedulable = &Reason{"Unschedulable", true, "wait for a node, ask for less, or check node selector and tolerations"}
	VolumeUnbound = &Reason{"VolumeNotBound", true, "wait for the volume; if this stays, check the storage class and that its provisioner runs"}
	VolumeFailed  = &Reason{"VolumeProvisioningFailed", true, "check the storage class and its provisioner; Kubernetes tries again"}
	MountFailed   = &Reason{"VolumeMountFailed", true, "check that the volume, secret or claim that the message names exists; Kubernetes tries again"}
	PodSandbox    = &Reason{"PodSandboxFailed", true, "check the node's network and container runtime; Kubernetes tries again"}
	ImagePull     = &Reason{"ImagePullFailed", true, "Kubernetes tries again; check the image's name and the pull secrets if it fails again"}
	ImageBackOff  = &Reason{"ImagePullBackOff", false, "check the image's name, that it exists, and the pull secrets; the sandbox starts once it can be pulled"}
	ImageName     = &Reason{"InvalidImageName", false, "delete the sandbox and create it with a valid image name"}
	ImageNever    = &Reason{"ImageNeverPulled", false, "load the image on the node, or set another pull policy"}
	ConfigError   = &Reason{"ContainerConfigError", false, "create the secret or config map that the message names, or mend the image's user; the sandbox starts by itself then"}
	CreateError   = &Reason{"ContainerCreateFailed", false, "the node could not make or start the container: check the image's platform and the supervisor's image"}
	Restarting    = &Reason{"ContainerRestarting", true, "Kubernetes starts the supervisor again; the pod's log has its last words"}
	CrashLoop     = &Reason{"CrashLoopBackOff", false, "the supervisor ends again and again: read the pod's log, then delete the sandbox or mend its image or command"}
	OutOfMemory   = &Reason{"OOMKilled", false, "give the sandbox a higher memory limit"}
	OutOfMemoryUp = &Reason{"OOMKilledRestarting", true, "Kubernetes starts the sandbox again; give it a higher memory limit if it happens again"}
	InitFailed    = &Reason{"InitFailed", false, "an init container fails: read its log; check the supervisor's image, and --workspace-seed for the workspace"}
	Evicted       = &Reason{"Evicted", false, "stop and start the sandbox to run it elsewhere with its workspace; ask for the memory and disk that it needs"}
	NodeLost      = &Reason{"NodeLost", true, "wait for the node; if it is gone for good, delete the node, and the sandbox starts on another one"}
	NodeShutdown  = &Reason{"NodeShutdown", false, "stop and start the sandbox to run it on another node"}
	NodeRefused   = &Reason{"NodeRefusedPod", false, "stop and start the sandbox to have it placed anew"}
	Disrupted     = &Reason{"PodReplaced", true, "a new pod is made when this one is gone; the workspace is kept if it is a claim"}
	Exited        = &Reason{"SupervisorExited", false, "the sandbox's main process or supervisor has ended: delete the sandbox, or stop and start it to run it again"}
	Failed        = &Reason{"SupervisorFailed", false, "read the pod's log, then stop and start the sandbox, or delete it"}
	Deadline      = &Reason{"DeadlineExceeded", false, "the pod's time is up: delete the sandbox"}
	Expired       = &Reason{"SandboxExpired", false, "the Sandbox object's shutdown time has come: delete the sandbox"}
	QuotaExceeded = &Reason{"QuotaExceeded", false, "delete sandboxes that are not needed, ask for less, or have the quota raised; the sandbox starts by itself then"}
	PodRefused    = &Reason{"PodRefused", false, "the cluster's rules refuse the pod: compare them with the driver's --pod-security and --capabilities"}
	AccountAbsent = &Reason{"ServiceAccountMissing", false, "create the service account that the message names, or start the driver with another --service-account"}
	NameTaken     = &Reason{"NameTaken", false, "remove the pod, claim or service that has the sandbox's name and is not its own, or choose another name"}
	NameLeft      = &Reason{"NameStillTaken", true, "wait: what an earlier sandbox of this name left is being removed"}
	SeveralPods   = &Reason{"MultiplePods", false, "delete the pods of the sandbox that are too many"}
	Controller    = &Reason{"ControllerError", true, "the Sandbox controller tries again; its log has more"}
)

// All lists every reason.
func All() []*Reason {
	return []*Reason{
		Unschedulable, VolumeUnbound, VolumeFailed, MountFailed, PodSandbox, ImagePull, ImageBackOff, ImageName, ImageNever,
		ConfigError, CreateError, Restarting, CrashLoop, OutOfMemory, OutOfMemoryUp, InitFailed, Evicted, NodeLost, NodeShutdown, NodeRefused,
		Disrupted, Exited, Failed, Deadline, Expired, QuotaExceeded, PodRefused, AccountAbsent, NameTaken, NameLeft, SeveralPods, Controller,
	}
}

// Problem is a reason with what is known about this case.
type Problem struct {
	*Reason
	// Detail is what Kubernetes says, one line.
	Detail string
}

// Message is the detail and the next step.
func (p Problem) Message() string {
	if p.Detail == "" {
		return p.Next
	}
	return p.Detail + "; next: " + p.Next
}

// Reasons of the conditions Ready and Suspended. Waiting is one that gateways of all generations take as passing.
const (
	ReadyTrue     = "DependenciesReady"
	ReadyWaiting  = "DependenciesNotReady"
	ReadyStarting = "Starting"
	ReadyStopped  = "SandboxSuspended"
	ReadyDeleting = "Deleting"
	Stopped       = "PodTerminated"
)
