package sandbox

import (
	"slices"
	"strings"
	"time"

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

// endedReasons are the reasons of Ready=False by which drivers without the condition Suspended say that a sandbox's
// processes have ended. During a stop or start they mean that it is stopped. In lower case.
var endedReasons = map[string]bool{"containerexited": true, "containerstopped": true}

// leavingReasons are the reasons of Suspended=False that mean "not yet", in lower case.
var leavingReasons = map[string]bool{"podterminating": true, "podnotterminated": true}

// standing is what a snapshot says about a stop or start that is under way.
type standing int

const (
	// standingUnknown: the driver says nothing about it.
	standingUnknown standing = iota
	standingRunning
	// standingLeaving: it is being stopped.
	standingLeaving
	standingStopped
)

// standingOf reads a driver's conditions.
func standingOf(conditions []Condition) standing {
	for _, c := range conditions {
		if !strings.EqualFold(c.Type, ConditionSuspended) {
			continue
		}
		switch {
		case strings.EqualFold(c.Status, "true"):
			return standingStopped
		case leavingReasons[strings.ToLower(c.Reason)]:
			return standingLeaving
		}
	}
	for _, c := range conditions {
		if c.Type != ConditionReady {
			continue
		}
		if strings.EqualFold(c.Status, "false") && endedReasons[strings.ToLower(c.Reason)] {
			return standingStopped
		}
		return standingRunning
	}
	return standingUnknown
}

// compose makes one phase of the record and the session. A sandbox is ready only while its supervisor is
// connected, whatever the driver says: an exec could not work otherwise. While it is stopping, stopped or starting, what
// was asked for counts more than snapshots, which may be older.
func compose(r *Record, connected, exited bool) (Phase, []Condition) {
	switch {
	case !r.DeletionTimestamp.IsZero() || r.DriverPhase == PhaseDeleting:
		return PhaseDeleting, r.Conditions
	case r.Failure != nil:
		return PhaseError, withReady(r.Conditions, "False", r.Failure.Reason, r.Failure.Message)
	case r.Course == CourseStopping:
		return PhaseStopping, r.onCourse(ConditionStopping, "the sandbox is being stopped")
	case r.Course == CourseStopped:
		return PhaseStopped, r.onCourse(ConditionStopped, "the sandbox is stopped")
	case exited:
		return PhaseError, withReady(r.Conditions, "False", "MainProcessExited", "the sandbox's main process has ended")
	case r.Course == CourseStarting:
		return composeStarting(r, connected)
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

// composeStarting is compose for a sandbox that is being started. It leaves to READY or ERROR; a snapshot of the time when
// it was stopped is neither.
func composeStarting(r *Record, connected bool) (Phase, []Condition) {
	switch {
	case r.DriverPhase == PhaseError && standingOf(r.Conditions) != standingStopped:
		return PhaseError, r.Conditions
	case connected:
		return PhaseReady, withReady(r.Conditions, "True", "DependenciesReady", "Supervisor session connected")
	case r.DriverPhase == PhaseReady:
		return PhaseStarting, r.onCourse("SupervisorNotConnected", "Backend ready; waiting for supervisor session")
	case standingOf(r.Conditions) == standingRunning:
		// The driver says what it waits for.
		return PhaseStarting, r.Conditions
	default:
		return PhaseStarting, r.onCourse(ConditionStarting, "the sandbox is being started")
	}
}

// onCourse is the record's conditions with Ready=False since the course was taken, and without Suspended, which only
// says when the driver has caught up.
func (r *Record) onCourse(reason, message string) []Condition {
	out := make([]Condition, 0, len(r.Conditions)+1)
	ready := Condition{Type: ConditionReady, Status: "False", Reason: reason, Message: message}
	if !r.CourseSince.IsZero() {
		ready.LastTransition = r.CourseSince.UTC().Format(time.RFC3339)
	}
	out = append(out, ready)
	for _, c := range r.Conditions {
		suspended := strings.EqualFold(c.Type, ConditionSuspended)
		if c.Type == ConditionReady || suspended && r.Course != CourseStopped {
			continue
		}
		out = append(out, c)
	}
	return out
}

// withoutStop returns the conditions that say nothing about whether the sandbox runs.
func withoutStop(conditions []Condition) []Condition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c Condition) bool {
		return c.Type == ConditionReady || strings.EqualFold(c.Type, ConditionSuspended)
	})
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
