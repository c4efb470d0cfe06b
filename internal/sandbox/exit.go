package sandbox

import (
	"context"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// maxInstanceID bounds a supervisor's instance id in bytes.
const maxInstanceID = 256

// MainProcessExited records the end of a sandbox's main process. It is accepted, and changes nothing, where it is no
// news: for a sandbox that is gone or going or is stopped, for another instance than the connected one or the one that a stop
// ended, and after a first report.
func (s *Service) MainProcessExited(ctx context.Context, id, instance string, code int32) error {
	switch {
	case instance == "":
		return fault.New(fault.InvalidArgument, "INSTANCE_ID_REQUIRED", "instance_id is required")
	case len(instance) > maxInstanceID:
		return fault.New(fault.InvalidArgument, "FIELD_TOO_LONG", "instance_id exceeds maximum length (%d > %d)", len(instance), maxInstanceID)
	}
	active, connected := s.Sessions.Connected(id)
	err := s.edit(ctx, id, func(r *Record) error {
		known := r.ExitCode != nil && r.ExitInstance == instance
		stopped := r.Course == CourseStopping || r.Course == CourseStopped || r.PriorInstance == instance
		if known || stopped || !r.DeletionTimestamp.IsZero() || connected && active != instance {
			return store.ErrNoChange
		}
		r.ExitCode, r.ExitInstance = &code, instance
		return nil
	})
	if fault.Is(notFound(err), fault.NotFound) {
		return nil
	}
	return err
}
