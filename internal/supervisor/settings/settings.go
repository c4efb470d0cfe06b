// Package settings follows what the gateway says about the sandbox: its configuration, asked for at an interval,
// and the environment its providers give it, asked for whenever the configuration shows that it changed. Values
// stay in memory only.
//
// The policy in the configuration is received and acknowledged; nothing in this supervisor enforces one yet, and
// each new version is logged with that warning.
package settings

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/pause"
)

const (
	// DefaultInterval is the time between two looks at the configuration.
	DefaultInterval = 10 * time.Second
	callTimeout     = 10 * time.Second
	firstTries      = 5
	firstDelay      = time.Second
	maxFirstDelay   = 4 * time.Second
	maxDelay        = 30 * time.Second
	// minRefetch bounds how often an expiring value is asked for again.
	minRefetch = 10 * time.Second
)

// Options is what a Follower needs.
type Options struct {
	SandboxID string
	Gateway   openshellpb.OpenShellClient
	// Interval is the time between two looks; 0 means DefaultInterval.
	Interval time.Duration
	// Unauthenticated is called when the gateway refused our credential; may be nil.
	Unauthenticated func(ctx context.Context, cause error)
	Log             *slog.Logger
}

// Follower keeps the newest state.
type Follower struct {
	o Options

	provider atomic.Pointer[map[string]string]

	// The rest belongs to the goroutine of Load and then of Run.
	config    *sandboxpb.GetSandboxConfigResponse
	wanted    uint64
	have      bool
	revision  uint64
	failures  int
	envDue    time.Time
	pending   *openshellpb.ReportPolicyStatusRequest
	reported  uint32
	failedFor string
}

// New returns a Follower that knows nothing yet.
func New(o Options) *Follower {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	return &Follower{o: o}
}

// Provider returns the current provider environment, which the caller must not change.
func (f *Follower) Provider() map[string]string {
	if m := f.provider.Load(); m != nil {
		return *m
	}
	return nil
}

// Load asks for everything for the first time. It returns when it has it or when asking again at once is of no
// use; Run goes on from there.
func (f *Follower) Load(ctx context.Context) {
	delay := firstDelay
	for try := 1; ctx.Err() == nil; try++ {
		err := f.poll(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if try == firstTries || !transient(err) {
			f.o.Log.Warn("sandbox configuration not loaded; asking again in the background", "error", err)
			break
		}
		f.o.Log.Info("sandbox configuration not loaded yet", "error", err, "retry_in", delay)
		if !pause.For(ctx, delay) {
			return
		}
		delay = min(2*delay, maxFirstDelay)
	}
	f.fetchEnvironment(ctx)
	f.report(ctx)
}

// Run looks for changes until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	next := time.Now().Add(f.o.Interval)
	for {
		wake := next
		if !f.envDue.IsZero() && f.envDue.Before(wake) {
			wake = f.envDue
		}
		if !pause.For(ctx, time.Until(wake)) {
			return nil
		}
		if !time.Now().Before(next) {
			next = time.Now().Add(f.o.Interval)
			if err := f.poll(ctx); err != nil && ctx.Err() == nil {
				f.logOnce(err)
			}
		}
		due := !f.envDue.IsZero() && !time.Now().Before(f.envDue)
		// After a failure only the clock decides.
		if due || f.failures == 0 && f.revision != f.wanted {
			f.fetchEnvironment(ctx)
		}
		f.report(ctx)
	}
}

// logOnce keeps an outage from filling the log.
func (f *Follower) logOnce(err error) {
	if code := status.Code(err).String(); code != f.failedFor {
		f.failedFor = code
		f.o.Log.Warn("sandbox configuration cannot be read; the last one stays in force", "error", err)
	}
}

// transient tells the failures that pass by themselves.
func transient(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unknown:
		return true
	}
	return false
}

func (f *Follower) refused(ctx context.Context, err error) {
	if status.Code(err) == codes.Unauthenticated && f.o.Unauthenticated != nil {
		f.o.Unauthenticated(ctx, err)
	}
}

// poll reads the configuration and notes what it changes.
func (f *Follower) poll(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := f.o.Gateway.GetSandboxConfig(call, &sandboxpb.GetSandboxConfigRequest{SandboxId: f.o.SandboxID}, grpc.WaitForReady(true))
	if err != nil {
		f.refused(ctx, err)
		return fmt.Errorf("read sandbox configuration: %w", err)
	}
	if f.failedFor != "" {
		f.failedFor = ""
		f.o.Log.Info("sandbox configuration can be read again")
	}
	old := f.config
	f.config = r
	f.wanted = r.GetProviderEnvRevision()
	if old == nil || old.GetConfigRevision() != r.GetConfigRevision() {
		f.o.Log.Info("sandbox configuration loaded", "revision", r.GetConfigRevision(),
			"policy_version", r.GetVersion(), "provider_revision", r.GetProviderEnvRevision())
	}
	f.acknowledge(old, r)
	return nil
}

// acknowledge prepares the report on a policy of the sandbox's own. One that needs services which this supervisor
// does not have is refused in words rather than taken and ignored.
func (f *Follower) acknowledge(old, r *sandboxpb.GetSandboxConfigResponse) {
	if r.GetVersion() == 0 || r.GetPolicySource() != sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX ||
		r.GetVersion() == f.reported || f.pending.GetVersion() == r.GetVersion() {
		return
	}
	report := &openshellpb.ReportPolicyStatusRequest{
		SandboxId: f.o.SandboxID, Version: r.GetVersion(), Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED,
	}
	switch p := r.GetPolicy(); {
	case p == nil:
		report.Status, report.LoadError = openshellpb.PolicyStatus_POLICY_STATUS_FAILED, "the configuration names a policy version and holds no policy"
	case len(r.GetSupervisorMiddlewareServices()) > 0:
		report.Status, report.LoadError = openshellpb.PolicyStatus_POLICY_STATUS_FAILED, "this supervisor cannot run middleware services"
	case p.GetFilesystem() != nil || p.GetLandlock() != nil || p.GetProcess() != nil || len(p.GetNetworkPolicies()) > 0 || len(p.GetNetworkMiddlewares()) > 0:
		// Saying LOADED would make people rely on rules that nobody applies.
		report.Status, report.LoadError = openshellpb.PolicyStatus_POLICY_STATUS_FAILED, "this supervisor does not enforce policies yet; none of its rules is in effect"
	}
	if old.GetVersion() != r.GetVersion() {
		f.o.Log.Warn("policy received; this supervisor does not enforce policies", "version", r.GetVersion(), "error", report.GetLoadError())
	}
	f.pending = report
}

// report sends what acknowledge prepared; a report that fails for a passing reason goes out with the next look.
func (f *Follower) report(ctx context.Context) {
	if f.pending == nil {
		return
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := f.o.Gateway.ReportPolicyStatus(call, f.pending)
	if err != nil {
		f.refused(ctx, err)
		f.o.Log.Warn("policy status not reported", "error", err, "again", transient(err))
		if transient(err) || status.Code(err) == codes.Unauthenticated {
			return
		}
	}
	f.reported, f.pending = f.pending.GetVersion(), nil
}
