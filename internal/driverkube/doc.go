// Package driverkube is the compute driver for Kubernetes: a sandbox is a Sandbox object of the agent-sandbox project,
// whose controller makes the pod. It owns what is written to the cluster: those objects, and in managed mode the
// namespaces that hold them. It keeps nothing of its own: whatever it knows it has read from the cluster, so a driver
// that is killed at any point loses nothing. It must know nothing of the gateway but its address.
//
// Package kubeapi makes the calls, manifest builds the objects, mirror follows them, verdict says what they mean.
package driverkube
