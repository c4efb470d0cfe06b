package manifest

import (
	corev1 "k8s.io/api/core/v1"
)

// Sandbox is as much of a Sandbox object as the driver writes when it creates one; both API versions read it. How
// a sandbox is stopped, in which they differ, is left to its default.
type Sandbox struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Spec     `json:"spec"`
}

// Metadata is what objects have in common, as far as the driver writes it.
type Metadata struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Spec is what the object asks for.
type Spec struct {
	PodTemplate          PodTemplate     `json:"podTemplate"`
	VolumeClaimTemplates []ClaimTemplate `json:"volumeClaimTemplates,omitempty"`
}

// PodTemplate is the pod.
type PodTemplate struct {
	Metadata Metadata       `json:"metadata"`
	Spec     corev1.PodSpec `json:"spec"`
}

// ClaimTemplate is a claim that is made for the sandbox and goes with it.
type ClaimTemplate struct {
	Metadata Metadata                         `json:"metadata"`
	Spec     corev1.PersistentVolumeClaimSpec `json:"spec"`
}
