package sandbox

import (
	"strings"

	"sallyport.dev/sallyport/internal/driver/compute"
)

// transientReasons are the reasons of Ready=False that mean "not yet" rather than "failed", in lower case; the
// set is the union of both reference generations' and our own drivers'.
var transientReasons = map[string]bool{
	"reconcilererror": true, "dependenciesnotready": true, "starting": true, "containerstarting": true,
	"healthcheckstarting": true, "inspectfailed": true, "supervisornotconnected": true, "containercreated": true,
	"resuming": true, "containerrestarting": true, "supervisorrestarting": true,
}

// driverPhase is what a driver's snapshot alone amounts to. previous is kept where the driver says nothing.
func driverPhase(s compute.Snapshot, previous Phase) Phase {
	switch {
	case s.Deleting:
		return PhaseDeleting
	case !s.HasStatus:
		return previous
	}
	for _, c := range s.Conditions {
		if strings.EqualFold(c.Type, ConditionSuspended) && strings.EqualFold(c.Status, "true") {
			return PhaseStopped
		}
	}
	for _, c := range s.Conditions {
		if c.Type != ConditionReady {
			continue
		}
		switch {
		case strings.EqualFold(c.Status, "true"):
			return PhaseReady
		case strings.EqualFold(c.Status, "false") && !transientReasons[strings.ToLower(c.Reason)]:
			return PhaseError
		}
		return PhaseProvisioning
	}
	return PhaseProvisioning
}

// compose makes one phase of the record and the session. A sandbox is ready only while its supervisor is
// connected, whatever the driver says: an exec could not work otherwise.
func compose(r *Record, connected, exited bool) (Phase, []Condition) {
	switch {
	case !r.DeletionTimestamp.IsZero() || r.DriverPhase == PhaseDeleting:
		return PhaseDeleting, r.Conditions
	case exited:
		return PhaseError, withReady(r.Conditions, "False", "MainProcessExited", "the sandbox's main process has ended")
	case r.DriverPhase == PhaseError, r.DriverPhase == PhaseStopped:
		return r.DriverPhase, r.Conditions
	case connected:
		return PhaseReady, withReady(r.Conditions, "True", "DependenciesReady", "Supervisor session connected")
	case r.DriverPhase == PhaseReady:
		return PhaseProvisioning, withReady(r.Conditions, "False", "SupervisorNotConnected",
			"Backend ready; waiting for supervisor session")
	default:
		return PhaseProvisioning, r.Conditions
	}
}

// withReady returns a copy of conditions in which Ready says the given.
func withReady(conditions []Condition, status, reason, message string) []Condition {
	out := make([]Condition, 0, len(conditions)+1)
	ready := Condition{Type: ConditionReady, Status: status, Reason: reason, Message: message}
	for _, c := range conditions {
		if c.Type == ConditionReady {
			ready.LastTransition = c.LastTransition
			continue
		}
		out = append(out, c)
	}
	return append([]Condition{ready}, out...)
}
