package settings

import (
	"context"
	"time"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// fetchEnvironment asks for the provider environment. After a failure the old one stays in force, since a running
// sandbox with yesterday's credential is better than one with none, and envDue says when to ask again.
func (f *Follower) fetchEnvironment(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := f.o.Gateway.GetSandboxProviderEnvironment(call, &openshellpb.GetSandboxProviderEnvironmentRequest{
		SandboxId: f.o.SandboxID, SupportsStaticCredentialBindings: true,
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f.refused(ctx, err)
		delay := min(firstDelay<<min(f.failures, 5), maxDelay)
		f.failures++
		f.envDue = time.Now().Add(delay)
		f.o.Log.Warn("provider environment not loaded; commands start without its newest values",
			"error", err, "retry_in", delay)
		return
	}
	env := r.GetEnvironment()
	f.provider.Store(&env)
	if !f.have || f.revision != r.GetProviderEnvRevision() || f.failures > 0 {
		f.o.Log.Info("provider environment loaded", "variables", len(env), "revision", r.GetProviderEnvRevision())
	}
	f.have, f.failures = true, 0
	f.revision = r.GetProviderEnvRevision()
	// The two answers may have crossed a change; the next look at the configuration settles that.
	f.wanted = f.revision
	f.envDue = refetchAt(r.GetCredentialExpiresAtMs())
}

// refetchAt returns when the first value has used four fifths of its remaining life, zero if none expires.
func refetchAt(expires map[string]int64) time.Time {
	var first int64
	for _, ms := range expires {
		if ms > 0 && (first == 0 || ms < first) {
			first = ms
		}
	}
	if first == 0 {
		return time.Time{}
	}
	left := time.Until(time.UnixMilli(first))
	return time.Now().Add(max(left/5*4, minRefetch))
}
