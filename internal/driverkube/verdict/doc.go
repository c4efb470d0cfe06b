// Package verdict reads what Kubernetes says about a sandbox's object, its pod and their events, and tells what it
// means: ready, stopped, on its way, or what is wrong and what to do about it. It only judges what it is handed; it
// neither asks nor remembers.
package verdict
