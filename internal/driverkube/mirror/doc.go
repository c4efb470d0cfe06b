// Package mirror follows the Sandbox objects of one gateway, their pods and the events about both, and keeps of each
// sandbox what a status takes: a few hundred bytes. It tells watchers of every change. It writes nothing to Kubernetes,
// and what it knows is never older than what Kubernetes told it; whoever needs certainty asks the API itself.
package mirror
