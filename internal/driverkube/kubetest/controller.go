package kubetest

import (
	"maps"
	"time"
)

// reconcile does what the Sandbox controller, the scheduler, the kubelet and the garbage collector do, all at once. The
// caller holds the mutex.
func (s *Server) reconcile(key string) {
	o := s.objects["sandboxes"][key]
	if o == nil {
		return
	}
	pod := s.objects["pods"][key]
	if Meta(o)["deletionTimestamp"] != nil {
		s.Controller = false // what follows is not to be reconciled
		s.remove("pods", key)
		s.remove("sandboxes", key)
		s.Controller = true
		return
	}
	spec, _ := o["spec"].(Object)
	replicas, counted := spec["replicas"].(float64)
	stop := Text(spec, "operatingMode") == "Suspended" || counted && replicas == 0
	generation := Meta(o)["generation"]
	status := func(conditions ...any) {
		next := clone(o)
		next["status"] = Object{"conditions": conditions}
		s.Controller = false
		s.put("sandboxes", next)
		s.Controller = true
	}
	s.Controller = false
	defer func() { s.Controller = true }()
	switch {
	case stop:
		s.remove("pods", key)
		if !told(o, "Suspended", "True", generation) {
			status(Condition("Suspended", "True", "PodTerminated", "", generation), Condition("Ready", "False", "SandboxSuspended", "", generation))
		}
	case pod == nil:
		s.put("pods", PodOf(o))
		fallthrough
	default:
		if !told(o, "Ready", "True", generation) {
			status(Condition("Suspended", "False", "NotSuspended", "", generation), Condition("Ready", "True", "DependenciesReady", "Pod is Ready", generation))
		}
	}
}

func told(o Object, kind, status string, generation any) bool {
	st, _ := o["status"].(Object)
	all, _ := st["conditions"].([]any)
	for _, c := range all {
		c, _ := c.(Object)
		if Text(c, "type") == kind {
			return Text(c, "status") == status && c["observedGeneration"] == generation
		}
	}
	return false
}

// Condition is a condition of a Sandbox object.
func Condition(kind, status, reason, message string, generation any) Object {
	return Object{
		"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation,
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}
}

// PodOf is the pod of a Sandbox object, ready.
func PodOf(o Object) Object {
	spec, _ := o["spec"].(Object)
	template, _ := spec["podTemplate"].(Object)
	meta := Object{}
	maps.Copy(meta, clone(Meta(clone(template))))
	meta["name"], meta["namespace"] = Meta(o)["name"], Meta(o)["namespace"]
	meta["ownerReferences"] = []any{Object{
		"apiVersion": o["apiVersion"], "kind": "Sandbox", "name": Meta(o)["name"], "uid": Meta(o)["uid"], "controller": true,
	}}
	podSpec, _ := clone(template)["spec"].(Object)
	if podSpec == nil {
		podSpec = Object{}
	}
	podSpec["nodeName"] = "node-1"
	now := time.Now().UTC().Format(time.RFC3339)
	return Object{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": podSpec, "status": Object{
		"phase": "Running", "podIPs": []any{Object{"ip": "10.0.0.1"}},
		"conditions": []any{
			Object{"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
			Object{"type": "Ready", "status": "True", "lastTransitionTime": now},
		},
		"containerStatuses": []any{Object{"name": "agent", "ready": true, "restartCount": 0, "state": Object{"running": Object{"startedAt": now}}}},
	}}
}
