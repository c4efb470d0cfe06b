package verdict_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

func pod(t *testing.T, text string) *verdict.Pod {
	t.Helper()
	var p verdict.Pod
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

func TestOfPod(t *testing.T) {
	t.Parallel()
	const agent = `"containerStatuses":[{"name":"agent","restartCount":%,`
	for name, c := range map[string]struct {
		status, want, detail string
		passing              bool
	}{
		"unschedulable":   {`"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3 nodes are available"}]`, "Unschedulable", "0/3 nodes", true},
		"gated":           {`"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated","message":"by x"}]`, "Unschedulable", "gated", true},
		"unbound claim":   {`"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"pod has unbound immediate PersistentVolumeClaims"}]`, "VolumeNotBound", "unbound", true},
		"pull":            {`"phase":"Pending","containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"ErrImagePull","message":"no\nroute"}}}]`, "ImagePullFailed", "agent: no route", true},
		"back-off":        {`"phase":"Pending","containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"ImagePullBackOff"}}}]`, "ImagePullBackOff", "", false},
		"config":          {`"phase":"Pending","containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"CreateContainerConfigError","message":"secret \"s\" not found"}}}]`, "ContainerConfigError", "secret", false},
		"creating":        {`"phase":"Pending","containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"ContainerCreating"}}}]`, "", "", false},
		"initializing":    {`"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"running":{}}}],"containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"PodInitializing"}}}]`, "", "", false},
		"init done":       {`"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]`, "", "", false},
		"init fails":      {`"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":2,"state":{"terminated":{"exitCode":1,"message":"cannot copy"}}}]`, "InitFailed", "cannot copy", false},
		"init once":       {`"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":0,"state":{"terminated":{"exitCode":1}}}]`, "ContainerRestarting", "exit code 1", true},
		"crash":           {`"phase":"Running","conditions":[{"type":"Ready","status":"False"}],` + strings.Replace(agent, "%", "2", 1) + `"state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":3}}}]`, "ContainerRestarting", "exit code 3, restarted 2 times", true},
		"crash loop":      {`"phase":"Running","conditions":[{"type":"Ready","status":"False"}],` + strings.Replace(agent, "%", "5", 1) + `"state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":0,"signal":9}}}]`, "CrashLoopBackOff", "signal 9", false},
		"memory":          {`"phase":"Running","conditions":[{"type":"Ready","status":"False"}],` + strings.Replace(agent, "%", "1", 1) + `"state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}}]`, "OOMKilledRestarting", "(OOMKilled)", true},
		"memory for good": {`"phase":"Failed","containerStatuses":[{"name":"agent","state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}}]`, "OOMKilled", "ran out of memory", false},
		"evicted":         {`"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."`, "Evicted", "low on resource", false},
		"refused":         {`"phase":"Failed","reason":"OutOfcpu","message":"no room"`, "NodeRefusedPod", "OutOfcpu: no room", false},
		"shutdown":        {`"phase":"Failed","reason":"Terminated","message":"node shutdown"`, "NodeShutdown", "node shutdown", false},
		"failed":          {`"phase":"Failed","containerStatuses":[{"name":"agent","state":{"terminated":{"exitCode":2}}}]`, "SupervisorFailed", "exit code 2", false},
		"ended":           {`"phase":"Succeeded"`, "SupervisorExited", "exit code 0", false},
		"node away":       {`"phase":"Running","conditions":[{"type":"Ready","status":"False"}],"containerStatuses":[{"name":"agent","ready":true,"state":{"running":{}}}]`, "NodeLost", "node n1 does not answer", true},
		"not ready yet":   {`"phase":"Running","conditions":[{"type":"Ready","status":"False"}],"containerStatuses":[{"name":"agent","ready":false,"state":{"running":{}}}]`, "", "", false},
		"unknown waiting": {`"phase":"Pending","containerStatuses":[{"name":"agent","state":{"waiting":{"reason":"SomethingNew"}}}]`, "", "", false},
		"no status":       {`"phase":""`, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := verdict.OfPod(pod(t, `{"metadata":{"name":"p","uid":"u"},"spec":{"nodeName":"n1"},"status":{`+c.status+`}}`))
			if s.Ready {
				t.Error("it is ready")
			}
			if c.want == "" {
				if s.Problem != nil {
					t.Errorf("got problem %s %q", s.Problem.Word, s.Problem.Detail)
				}
				return
			}
			if s.Problem == nil || s.Problem.Word != c.want || s.Problem.Passing != c.passing || !strings.Contains(s.Problem.Detail, c.detail) {
				t.Fatalf("got %+v, want %s with %q", s.Problem, c.want, c.detail)
			}
			if strings.Contains(s.Problem.Message(), "\n") || !strings.Contains(s.Problem.Message(), s.Problem.Next) {
				t.Errorf("message %q", s.Problem.Message())
			}
		})
	}
}

func TestOfPodThatIsTakenAway(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"DeletionByTaintManager": "NodeLost", "EvictionByEvictionAPI": "PodReplaced", "PreemptionByScheduler": "PodReplaced", "": "PodReplaced", "New": "PodReplaced",
	} {
		condition := ""
		if reason != "" {
			condition = `{"type":"DisruptionTarget","status":"True","reason":"` + reason + `","message":"m"},`
		}
		s := verdict.OfPod(pod(t, `{"metadata":{"deletionTimestamp":"2026-01-02T03:04:05Z"},"spec":{"nodeName":"n1"},"status":{"phase":"Running","conditions":[`+condition+`{"type":"Ready","status":"True"}]}}`))
		if s.Ready || s.Problem == nil || s.Problem.Word != want || !s.Problem.Passing {
			t.Errorf("%s: %+v", reason, s.Problem)
		}
	}
}

func box(t *testing.T, spec, conditions string) verdict.SandboxState {
	t.Helper()
	var s verdict.Sandbox
	err := json.Unmarshal([]byte(`{"metadata":{"generation":3,"creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{`+spec+`},"status":{"conditions":[`+conditions+`]}}`), &s)
	if err != nil {
		t.Fatal(err)
	}
	return verdict.OfSandbox(&s)
}

func condition(kind, status, reason, message string, generation int) string {
	raw, _ := json.Marshal(map[string]any{"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation, "lastTransitionTime": "2026-01-02T03:04:06Z"})
	return string(raw)
}

func TestCompose(t *testing.T) {
	t.Parallel()
	ready := &verdict.PodState{Ready: true, Node: "n1"}
	starting := &verdict.PodState{Starting: true, Node: "n1", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	mount := &verdict.Note{Problem: &verdict.Problem{Reason: verdict.MountFailed, Detail: "no secret"}, Time: starting.Since}
	for name, c := range map[string]struct {
		spec, conditions string
		pod              *verdict.PodState
		note             *verdict.Note
		ready, suspended bool
		reason, message  string
	}{
		"new":                {"", "", nil, nil, false, false, "Starting", "agent-sandbox controller"},
		"no pod yet":         {"", condition("Ready", "False", "DependenciesNotReady", "Pod does not exist", 3), nil, nil, false, false, "DependenciesNotReady", "being made"},
		"ready":              {"", condition("Ready", "False", "DependenciesNotReady", "", 3), ready, nil, true, false, "DependenciesReady", "n1"},
		"mount":              {"", condition("Ready", "False", "DependenciesNotReady", "", 3), starting, mount, false, false, "DependenciesNotReady", "VolumeMountFailed: no secret"},
		"quota":              {"", condition("Ready", "False", "ReconcilerError", `Error seen: pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`, 3), nil, nil, false, false, "QuotaExceeded", "asked for pods=1, in use pods=2, allowed pods=2"},
		"trouble with API":   {"", condition("Ready", "False", "ReconcilerError", "Error seen: etcd timeout", 3), nil, nil, false, false, "DependenciesNotReady", "ControllerError: etcd timeout"},
		"old trouble":        {"", condition("Ready", "False", "ReconcilerError", "Error seen: pods is forbidden", 2), nil, nil, false, false, "DependenciesNotReady", "being made"},
		"name taken":         {"", condition("Ready", "False", "ReconcilerError", "Error seen: cannot adopt unowned pod", 3), nil, nil, false, false, "NameTaken", ""},
		"name left":          {"", condition("Ready", "False", "ReconcilerError", `Error seen: pod "x" is owned by Sandbox/x (UID: 1), not by sandbox "x"`, 3), nil, nil, false, false, "DependenciesNotReady", "NameStillTaken"},
		"expired":            {"", condition("Ready", "False", "SandboxExpired", "", 3), nil, nil, false, false, "SandboxExpired", ""},
		"stopping":           {`"operatingMode":"Suspended"`, condition("Suspended", "False", "PodTerminating", "", 3), ready, nil, false, false, "DependenciesNotReady", "being stopped"},
		"stopped":            {`"operatingMode":"Suspended"`, condition("Suspended", "True", "PodTerminated", "", 3), nil, nil, false, true, "SandboxSuspended", ""},
		"stale stop":         {`"operatingMode":"Suspended"`, condition("Suspended", "True", "PodTerminated", "", 2), nil, nil, false, false, "DependenciesNotReady", "being stopped"},
		"started again":      {`"operatingMode":"Running"`, condition("Suspended", "True", "PodTerminated", "", 2) + "," + condition("Ready", "True", "DependenciesReady", "", 3), ready, nil, true, false, "DependenciesReady", ""},
		"stopped by count":   {`"replicas":0`, condition("Ready", "False", "DependenciesNotReady", "", 3), nil, nil, false, true, "SandboxSuspended", ""},
		"stopping by count":  {`"replicas":0`, condition("Ready", "True", "DependenciesReady", "", 2), ready, nil, false, false, "DependenciesNotReady", "being stopped"},
		"foreign pod":        {`"operatingMode":"Suspended"`, condition("Suspended", "False", "PodNotOwned", "Refused", 3), nil, nil, false, false, "NameTaken", "Refused"},
		"pod before problem": {"", condition("Ready", "False", "ReconcilerError", "Error seen: service get failed", 3), ready, nil, true, false, "DependenciesReady", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := box(t, c.spec, c.conditions)
			got := verdict.Compose(&s, c.pod, c.note)
			if got.Ready != c.ready || got.Suspended != c.suspended || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
				t.Errorf("got %+v", got)
			}
			if got.Since.IsZero() && c.pod != ready {
				t.Error("no time")
			}
		})
	}
}

func FuzzObjects(f *testing.F) {
	f.Add([]byte(`{"metadata":{"uid":"u"},"spec":{"nodeName":"n"},"status":{"phase":"Failed","reason":"Evicted","containerStatuses":[{"name":"agent","state":{"terminated":{}}}]}}`))
	f.Add([]byte(`{"metadata":{"generation":1},"spec":{"replicas":0},"status":{"conditions":[{"type":"Ready","status":"False","reason":"ReconcilerError","message":"exceeded quota: a, requested: b, used: c, limited: d"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p verdict.Pod
		var s verdict.Sandbox
		var e verdict.Event
		if json.Unmarshal(raw, &p) != nil || json.Unmarshal(raw, &s) != nil || json.Unmarshal(raw, &e) != nil {
			return
		}
		pod, sandbox := verdict.OfPod(&p), verdict.OfSandbox(&s)
		got := verdict.Compose(&sandbox, &pod, verdict.OfEvent(&e))
		if got.Ready && (got.Problem != nil || got.Suspended || got.Deleting) || got.Reason == "" || len(got.Message) > 8<<10 {
			t.Errorf("%+v", got)
		}
	})
}
