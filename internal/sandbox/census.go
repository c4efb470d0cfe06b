package sandbox

import (
	"time"

	"sallyport.dev/sallyport/internal/store"
)

// Census counts the stored sandboxes.
type Census struct {
	// Phases holds how many are in each phase; those that cannot be read count as PhaseUnknown.
	Phases [PhaseStarting + 1]int
	// Creating, Deleting, Stopping and Starting are those whose driver has not confirmed that yet, Oldest the time since
	// the first of these was asked for.
	Creating, Deleting, Stopping, Starting int
	Oldest                                 time.Duration
}

// Census looks at all sandboxes. What it finds out of each version is remembered with it, so that doing it again costs
// little.
func (s *Service) Census() Census {
	var c Census
	now := time.Now()
	for _, o := range s.Store.List(Kind, store.Query{AllWorkspaces: true}) {
		sb, err := s.compose(o)
		if err != nil || sb.Phase < 0 || int(sb.Phase) >= len(c.Phases) {
			c.Phases[PhaseUnknown]++
			continue
		}
		c.Phases[sb.Phase]++
		switch {
		case !sb.Record.DeletionTimestamp.IsZero():
			c.Deleting++
			c.Oldest = max(c.Oldest, now.Sub(sb.Record.DeletionTimestamp))
		case !sb.Record.Accepted:
			c.Creating++
			c.Oldest = max(c.Oldest, now.Sub(o.CreatedAt))
		case sb.Record.moving():
			if sb.Record.Course == CourseStopping {
				c.Stopping++
			} else {
				c.Starting++
			}
			c.Oldest = max(c.Oldest, now.Sub(sb.Record.CourseSince))
		}
	}
	return c
}

// String is the phase as a metric's label has it.
func (p Phase) String() string {
	switch p {
	case PhaseProvisioning:
		return "provisioning"
	case PhaseReady:
		return "ready"
	case PhaseError:
		return "error"
	case PhaseDeleting:
		return "deleting"
	case PhaseStopping:
		return "stopping"
	case PhaseStopped:
		return "stopped"
	case PhaseStarting:
		return "starting"
	case PhaseUnspecified, PhaseUnknown:
	}
	return "unknown"
}
