package sandbox

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// Stable reasons of stops and starts that fail.
const (
	ReasonNotReady    = "SANDBOX_NOT_READY"
	ReasonStopped     = "SANDBOX_STOPPED"
	ReasonNotStopped  = "SANDBOX_NOT_STOPPED"
	ReasonNoLifecycle = "DRIVER_LIFECYCLE_UNSUPPORTED"
	ReasonBackendLost = "BACKEND_RESOURCE_MISSING"
)

// Stop has the driver stop a sandbox that runs or has failed, and keep what is needed to start it again. That it is to be stopped is
// stored before the driver is asked: a stop that has begun is finished whatever crashes, unless the driver says that the
// sandbox runs on. A sandbox that is stopped stays so, and one that is being stopped is waited for. The call is carried
// through even if the caller goes away. The answer is STOPPED, or STOPPING where the driver takes longer than it may.
func (s *Service) Stop(ctx context.Context, workspace, name string) (*Sandbox, error) {
	return s.move(ctx, workspace, name, CourseStopping, func(sb *Sandbox, r *Record) error {
		switch {
		case sb.Phase == PhaseStopped:
			if r.Course == CourseStopped {
				return store.ErrNoChange
			}
			// The driver stopped it by itself. Now it is meant to be.
			r.take(CourseStopped)
		case sb.Phase == PhaseStopping:
			return store.ErrNoChange
		case sb.Phase == PhaseReady, sb.Waiting(), sb.Phase == PhaseError && r.Failure == nil:
			// One in error too: to stop it and start it again is what helps where its machine failed.
			if r.PriorInstance = sb.MainInstanceID; r.PriorInstance == "" {
				r.PriorInstance = r.ExitInstance
			}
			r.take(CourseStopping)
		default:
			return fault.New(fault.FailedPrecondition, ReasonNotReady, "sandbox must be Ready to stop").
				WithNext("%s", sb.whatNext())
		}
		return nil
	})
}

// Start has the driver start a stopped sandbox again; it is READY once its supervisor has connected. Like Stop it is
// finished whatever crashes. For a sandbox that is ready it does nothing.
func (s *Service) Start(ctx context.Context, workspace, name string) (*Sandbox, error) {
	return s.move(ctx, workspace, name, CourseStarting, func(sb *Sandbox, r *Record) error {
		switch sb.Phase {
		case PhaseReady, PhaseStarting:
			return store.ErrNoChange
		case PhaseStopped:
			r.take(CourseStarting)
			r.DriverPhase, r.ExitCode, r.ExitInstance = PhaseProvisioning, nil, ""
			return nil
		default:
			return fault.New(fault.FailedPrecondition, ReasonNotStopped, "sandbox must be Stopped to start").
				WithNext("%s", sb.whatNext())
		}
	})
}

// take changes the course.
func (r *Record) take(c Course) { r.Course, r.CourseSince = c, time.Now() }

// moving tells whether the driver has still something to do about a stop or start.
func (r *Record) moving() bool { return r.Course == CourseStopping || r.Course == CourseStarting }

// left tells whether a supervisor's instance is the one that the last stop ended, so that it does not make a sandbox
// ready that is being started.
func (r *Record) left(instance string) bool {
	return r.Course == CourseStarting && instance != "" && instance == r.PriorInstance
}

// move stores a course, if begin allows, and has it carried out.
func (s *Service) move(ctx context.Context, workspace, name string, to Course, begin func(*Sandbox, *Record) error) (*Sandbox, error) {
	o, err := s.find(ctx, workspaceOr(workspace), name)
	if err != nil {
		return nil, err
	}
	id := o.ID
	err = s.change(ctx, id, 0, func(o *store.Object, r *Record) ([]store.Op, error) {
		sb, err := s.compose(o)
		if err != nil {
			return nil, err
		}
		return nil, begin(sb, r)
	})
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	s.background.Go(func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), driverTimeout)
		defer cancel()
		done <- s.carryOut(detached, id, to)
	})
	if err := await(ctx, done, "the gateway goes on with it; watch the sandbox"); err != nil {
		return nil, err
	}
	return s.ByID(id)
}

// carryOut asks the driver for what is stored, unless somebody else was faster.
func (s *Service) carryOut(ctx context.Context, id string, to Course) error {
	release, err := s.turns.take(ctx, id)
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "SANDBOX_BUSY", "another stop or start of this sandbox takes too long").
			WithNext("the gateway goes on with it; watch the sandbox")
	}
	defer release()
	sb, err := s.ByID(id)
	if err != nil {
		return err
	}
	switch {
	case !sb.DeletionTimestamp.IsZero():
		return nil
	case sb.Course == CourseStopped:
		s.silence(id)
		return nil
	case sb.Course != to:
		return nil
	case to == CourseStopping:
		return s.stop(ctx, sb)
	default:
		return s.start(ctx, sb)
	}
}

// silence ends what still talks to a sandbox that is stopped.
func (s *Service) silence(id string) { s.Sessions.Disconnect(id, "the sandbox was stopped") }

// stop asks the driver, and where that fails asks how the sandbox is. A sandbox of which nothing is known stays as it is:
// it is tried again.
func (s *Service) stop(ctx context.Context, sb *Sandbox) error {
	o := sb.Object
	s.Logs.Append(o.ID, gatewayLine("INFO", "stopping the sandbox"))
	err := s.Driver.Stop(ctx, o.ID, o.Name)
	if err == nil {
		return s.settle(ctx, o.ID, CourseStopping, CourseStopped)
	}
	if fault.Is(err, fault.Unimplemented) {
		return errors.Join(noLifecycle(err, "stop"), s.settle(ctx, o.ID, CourseStopping, CourseRun))
	}
	snap, lookErr := s.Driver.Get(ctx, o.ID, o.Name)
	switch {
	case fault.Is(lookErr, fault.NotFound):
		return errors.Join(backendLost("stop"), s.loseBackend(ctx, o.ID))
	case lookErr != nil || !snap.HasStatus:
		return goesOn(err)
	}
	switch standingOf(conditions(snap.Conditions)) {
	case standingStopped:
		return s.settle(ctx, o.ID, CourseStopping, CourseStopped)
	case standingLeaving:
		return nil
	case standingRunning:
		if passing(err) {
			// The driver is well and not done yet.
			return nil
		}
		return errors.Join(err, s.settle(ctx, o.ID, CourseStopping, CourseRun))
	default:
		return goesOn(err)
	}
}

// passing tells of a failure that it says nothing about what comes of the call: the driver may be at it still.
func passing(err error) bool {
	switch fault.From(err).Kind {
	case fault.Unavailable, fault.DeadlineExceeded, fault.Canceled, fault.ResourceExhausted, fault.Aborted:
		return true
	}
	return false
}

// start is stop's counterpart. What the driver starts counts as started when its supervisor has come.
func (s *Service) start(ctx context.Context, sb *Sandbox) error {
	o := sb.Object
	if sb.Connected && sb.left(sb.MainInstanceID) {
		s.silence(o.ID)
	}
	s.Logs.Append(o.ID, gatewayLine("INFO", "starting the sandbox"))
	err := s.Driver.Start(ctx, o.ID, o.Name)
	switch {
	case err == nil:
		return s.startedBefore(ctx, o.ID)
	case fault.Is(err, fault.Unimplemented):
		return errors.Join(noLifecycle(err, "start"), s.settle(ctx, o.ID, CourseStarting, CourseStopped))
	case fault.Is(err, fault.NotFound):
		return errors.Join(backendLost("start"), s.loseBackend(ctx, o.ID))
	}
	snap, lookErr := s.Driver.Get(ctx, o.ID, o.Name)
	switch {
	case fault.Is(lookErr, fault.NotFound):
		return errors.Join(backendLost("start"), s.loseBackend(ctx, o.ID))
	case lookErr != nil || !snap.HasStatus:
		return goesOn(err)
	}
	switch standingOf(conditions(snap.Conditions)) {
	case standingStopped:
		if passing(err) {
			return goesOn(err)
		}
		return errors.Join(err, s.settle(ctx, o.ID, CourseStarting, CourseStopped))
	case standingRunning:
		return s.startedBefore(ctx, o.ID)
	default:
		return goesOn(err)
	}
}

// startedBefore ends a start whose supervisor has come already, which may be before the driver answers, or before a crash.
func (s *Service) startedBefore(ctx context.Context, id string) error {
	sb, err := s.ByID(id)
	if err != nil || !sb.Connected || sb.left(sb.MainInstanceID) {
		return err
	}
	return s.settle(ctx, id, CourseStarting, CourseRun)
}

// settle ends a course that is still the sandbox's.
func (s *Service) settle(ctx context.Context, id string, from, to Course) error {
	err := s.edit(ctx, id, func(r *Record) error {
		if r.Course != from {
			return store.ErrNoChange
		}
		if to == CourseRun && standingOf(r.Conditions) == standingStopped {
			// What the driver last said is of the time when the sandbox was stopped, and counts no more.
			r.DriverPhase, r.Conditions = PhaseProvisioning, withoutStop(r.Conditions)
		}
		r.take(to)
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return NotFound()
	}
	if err != nil {
		return storeFault(err)
	}
	if to == CourseStopped {
		s.silence(id)
		s.Logs.Append(id, gatewayLine("INFO", "the sandbox is stopped"))
	}
	return nil
}

// arrived ends a start with the coming of the sandbox's supervisor. Should the write fail, the sandbox is ready all the
// same as long as the supervisor is connected, and the next round ends the start. A supervisor that comes to a stopped
// sandbox is one that has still to end.
func (s *Service) arrived(ctx context.Context, id, instance string) {
	o, err := s.Store.Get(Kind, id)
	if err != nil {
		return
	}
	r, err := decode(o)
	if err == nil && r.Course == CourseStopped {
		s.silence(id)
	}
	if err != nil || r.Course != CourseStarting || r.left(instance) {
		return
	}
	// The supervisor may be gone again before this is written.
	if err := s.settle(context.WithoutCancel(ctx), id, CourseStarting, CourseRun); err != nil && !fault.Is(err, fault.NotFound) {
		s.Logger.Warn("record that a sandbox has started; will be retried", "sandbox_id", id, "error", err)
	}
}

// lose records that a sandbox cannot work any more.
func (s *Service) lose(ctx context.Context, id, reason, message string) error {
	err := s.edit(ctx, id, func(r *Record) error {
		if r.Failure != nil && r.Failure.Reason == reason {
			return store.ErrNoChange
		}
		r.Failure = &Failure{Reason: reason, Message: message}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return storeFault(err)
	}
	s.silence(id)
	s.Logs.Append(id, gatewayLine("ERROR", message, "reason", reason))
	return nil
}

func (s *Service) loseBackend(ctx context.Context, id string) error {
	err := s.lose(ctx, id, ConditionBackendLost, "the compute driver has lost what the sandbox was made of")
	if err != nil {
		return err
	}
	// What is lost neither stops nor starts any more.
	return errors.Join(s.settle(ctx, id, CourseStopping, CourseStopped), s.settle(ctx, id, CourseStarting, CourseStopped))
}

func backendLost(verb string) *fault.Error {
	return fault.New(fault.FailedPrecondition, ReasonBackendLost, "%s sandbox failed: the compute driver has lost the sandbox", verb).
		WithNext("delete the sandbox and create it anew")
}

func noLifecycle(cause error, verb string) *fault.Error {
	return fault.Wrap(cause, fault.Unimplemented, ReasonNoLifecycle,
		"%s sandbox failed: the compute driver can neither stop nor start sandboxes", verb).
		WithNext("delete the sandbox when it is not needed, or have the operator install a driver that can")
}

// goesOn tells the caller of a failed stop or start that it is tried again.
func goesOn(err error) error {
	f := *fault.From(err)
	f.Next = "the gateway goes on trying; watch the sandbox"
	return &f
}

// redoLimit is how many interrupted stops and starts are carried out at the same time.
const redoLimit = 16

// redo carries out what a crash or an absent driver interrupted, aside: who lists or retries must not wait for it.
func (s *Service) redo(ctx context.Context, o *store.Object) {
	r, err := decode(o)
	if err != nil || s.turns.busy(o.ID) {
		return
	}
	s.aside(ctx, o.ID, func(ctx context.Context) error { return s.carryOut(ctx, o.ID, r.Course) })
}

// aside runs do in the background, at most redoLimit at a time; one that finds no room is left to the next round.
func (s *Service) aside(ctx context.Context, id string, do func(context.Context) error) {
	select {
	case s.room <- struct{}{}:
	default:
		return
	}
	s.background.Go(func() {
		defer func() { <-s.room }()
		ctx, cancel := context.WithTimeout(ctx, driverTimeout)
		defer cancel()
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.Logger.Warn("finish an interrupted stop or start", "sandbox_id", id, "error", err)
		}
	})
}

// Waiting tells that the sandbox runs and only its supervisor is away, most likely for a moment.
func (s *Sandbox) Waiting() bool {
	return s.Phase == PhaseProvisioning && s.DriverPhase == PhaseReady
}

// NotReady is the answer to who wants to work in a sandbox that is not ready.
func (s *Sandbox) NotReady() *fault.Error {
	reason, message := ReasonNotReady, "sandbox is not ready"
	if s.Phase == PhaseStopped || s.Phase == PhaseStopping {
		reason, message = ReasonStopped, "sandbox is not ready: it is stopped"
	}
	return fault.New(fault.FailedPrecondition, reason, "%s", message).WithNext("%s", s.whatNext())
}

// whatNext is what leads on from the sandbox's phase.
func (s *Sandbox) whatNext() string {
	name := s.Object.Name
	switch s.Phase {
	case PhaseStopped:
		return "start it: `sallyport sandbox start " + name + "`"
	case PhaseStopping:
		return "wait until it is stopped, then start it: `sallyport sandbox start " + name + "`"
	case PhaseError:
		return "see why: `sallyport sandbox get " + name + "`"
	case PhaseReady:
		return "the sandbox is ready; stop it first if it shall start anew"
	case PhaseDeleting:
		return "the sandbox is being deleted; create another"
	default:
		return "watch the sandbox until its phase is READY"
	}
}

// Ended words the end of work in a sandbox: where the sandbox was stopped or deleted meanwhile, that is why, whatever
// broke first. Other errors stay as they are.
func (s *Service) Ended(id string, err error) error {
	if !fault.Is(err, fault.Unavailable) {
		return err
	}
	sb, lookErr := s.ByID(id)
	switch {
	case fault.Is(lookErr, fault.NotFound), lookErr == nil && sb.Phase == PhaseDeleting:
		return fault.Wrap(err, fault.Unavailable, "SANDBOX_DELETED", "the sandbox was deleted").
			WithNext("the work in it ended with it")
	case lookErr == nil && (sb.Phase == PhaseStopping || sb.Phase == PhaseStopped):
		return fault.Wrap(err, fault.Unavailable, ReasonStopped, "the sandbox was stopped").WithNext("%s", sb.whatNext())
	}
	return err
}

// startWithGateway starts what should run, once, where the driver leaves that to the gateway: such a driver's sandboxes
// were stopped with the gateway, by Suspend or by the machine.
func (s *Service) startWithGateway(ctx context.Context) {
	if s.resumed.Load() {
		return
	}
	caps, err := s.Driver.Capabilities(ctx)
	if err != nil {
		s.Logger.Warn("ask the compute driver whether sandboxes start with the gateway; will be retried", "error", err)
		return
	}
	s.resumed.Store(true)
	if !caps.GatewayManagesLifecycle {
		return
	}
	s.background.Go(func() {
		s.each(ctx, func(r *Record) bool { return r.DriverPhase != PhaseReady }, s.startOne)
	})
}

// startOne starts one sandbox with the gateway.
func (s *Service) startOne(ctx context.Context, o *store.Object) {
	err := s.Driver.Start(ctx, o.ID, o.Name)
	switch {
	case err == nil, fault.Is(err, fault.Unimplemented):
		return
	case fault.Is(err, fault.NotFound):
		err = s.loseBackend(ctx, o.ID)
	case fault.Is(err, fault.Unavailable) || ctx.Err() != nil:
		// Nobody knows; the driver reports on the sandbox when it is back.
	default:
		err = errors.Join(err, s.lose(ctx, o.ID, ConditionStartFailed, fault.From(err).Message))
	}
	if err != nil {
		s.Logger.Warn("start a sandbox with the gateway", "sandbox_id", o.ID, "error", err)
	}
}

// Suspend stops every sandbox that runs, where the driver leaves that to the gateway, and changes nothing of what is
// stored: the next gateway starts them. It is for the end of the gateway, when nothing follows the driver any more.
func (s *Service) Suspend(ctx context.Context) error {
	caps, err := s.Driver.Capabilities(ctx)
	if err != nil || !caps.GatewayManagesLifecycle {
		return err
	}
	s.each(ctx, func(*Record) bool { return true }, func(ctx context.Context, o *store.Object) {
		if err := s.Driver.Stop(ctx, o.ID, o.Name); err != nil && !fault.Is(err, fault.Unimplemented) {
			s.Logger.Warn("stop a sandbox with the gateway", "sandbox_id", o.ID, "error", err)
		}
	})
	return nil
}

// each does something to the sandboxes that should run, several at a time, and returns when all is done or ctx ends.
func (s *Service) each(ctx context.Context, pick func(*Record) bool, do func(context.Context, *store.Object)) {
	room := make(chan struct{}, redoLimit)
	for _, o := range s.Store.List(Kind, store.Query{AllWorkspaces: true}) {
		r, err := decode(o)
		if err != nil || !r.Accepted || !r.DeletionTimestamp.IsZero() || r.Course != CourseRun || r.Failure != nil || !pick(r) {
			continue
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		s.background.Go(func() {
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(ctx, driverTimeout)
			defer cancel()
			do(ctx, o)
		})
	}
	for range redoLimit {
		room <- struct{}{}
	}
}

var _ compute.Sink = (*Service)(nil)
