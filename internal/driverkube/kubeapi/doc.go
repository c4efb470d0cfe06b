// Package kubeapi makes the few calls of the Kubernetes API that a compute driver needs: one object at a time in
// bounded time, and following all objects of a kind as they change. It keeps no object. What a call reads is decoded
// straight into the caller's small types, so that following thousands of pods costs what is kept of them and no more.
// It knows the API's conventions and how its failures read; it must not know what a sandbox is made of.
package kubeapi
