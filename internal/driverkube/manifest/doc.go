// Package manifest turns a sandbox as the gateway asks for it into the Sandbox object, with its pod and its claims,
// that Kubernetes is given, or says why it cannot. It owns names, labels, annotations, environment and security of
// that pod. It talks to nobody: what it must know of the cluster is handed in.
package manifest
