package kubeapi

import (
	"context"
	"slices"
	"sync"

	"sallyport.dev/sallyport/internal/fault"
)

// SandboxGroup is the API group of Sandbox objects.
const SandboxGroup = "agents.x-k8s.io"

// Versions of Sandbox objects that the driver speaks, the preferred first. They differ in how a sandbox is stopped.
const (
	V1Beta1  = SandboxGroup + "/v1beta1"
	V1Alpha1 = SandboxGroup + "/v1alpha1"
)

// Versions finds the version of Sandbox objects that the cluster serves, and remembers it until it is told that it
// changed. It is safe for concurrent use.
type Versions struct {
	client *Client

	mu    sync.Mutex
	known string
}

// NewVersions returns the versions of one API server; nothing is asked yet.
func NewVersions(c *Client) *Versions { return &Versions{client: c} }

// Sandboxes returns the resource of Sandbox objects in the version to speak. The error is a fault: the definition is
// missing, or the API does not answer.
func (v *Versions) Sandboxes(ctx context.Context) (Resource, error) {
	v.mu.Lock()
	known := v.known
	v.mu.Unlock()
	if known == "" {
		var err error
		if known, err = v.discover(ctx); err != nil {
			return Resource{}, err
		}
		v.mu.Lock()
		v.known = known
		v.mu.Unlock()
	}
	return Resource{GroupVersion: known, Plural: "sandboxes"}, nil
}

// Forget has the next call ask the cluster again, as after an upgrade of the definition.
func (v *Versions) Forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known = ""
}

func (v *Versions) discover(ctx context.Context) (string, error) {
	type served struct {
		GroupVersion string `json:"groupVersion"`
	}
	var group struct {
		Versions []served `json:"versions"`
	}
	if err := v.client.GetPath(ctx, "/apis/"+SandboxGroup, &group); err != nil {
		return "", Explain("find the cluster's version of Sandbox objects", err)
	}
	for _, ours := range []string{V1Beta1, V1Alpha1} {
		if slices.Contains(group.Versions, served{ours}) {
			return ours, nil
		}
	}
	return "", fault.New(fault.FailedPrecondition, ReasonNoCRD, "the cluster serves no version of Sandbox objects that this driver speaks (v1beta1, v1alpha1)").
		WithNext("install a version of the agent-sandbox controller that this driver speaks, or update the driver")
}
