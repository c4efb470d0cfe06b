package cli_test

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// StopSandbox stops a sandbox at once; one named "slow..." is stopping until it is watched, and one named "restless..."
// cannot be stopped.
func (g *gateway) StopSandbox(_ context.Context, r *openshellpb.StopSandboxRequest) (*openshellpb.SandboxResponse, error) {
	if strings.HasPrefix(r.GetName(), "restless") {
		return nil, refusal(codes.Unimplemented, "stop sandbox failed: the compute driver can neither stop nor start sandboxes",
			"DRIVER_LIFECYCLE_UNSUPPORTED", "delete it")
	}
	phase := openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPED
	if strings.HasPrefix(r.GetName(), "slow") {
		phase = openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPING
	}
	return g.move(r.GetName(), phase, &openshellpb.SandboxCondition{Type: "Ready", Status: "False", Reason: "Stopped", Message: "it is stopped"})
}

// StartSandbox begins to start a sandbox, which the watch ends.
func (g *gateway) StartSandbox(_ context.Context, r *openshellpb.StartSandboxRequest) (*openshellpb.SandboxResponse, error) {
	return g.move(r.GetName(), openshellpb.SandboxPhase_SANDBOX_PHASE_STARTING,
		&openshellpb.SandboxCondition{Type: "Ready", Status: "False", Reason: "Starting", Message: "on its way"})
}

func (g *gateway) move(name string, phase openshellpb.SandboxPhase, condition *openshellpb.SandboxCondition) (*openshellpb.SandboxResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sb := g.sandboxes[name]
	if sb == nil {
		return nil, refusal(codes.NotFound, "sandbox '"+name+"' not found", "SANDBOX_NOT_FOUND", "see the list of sandboxes")
	}
	sb.Phase, sb.Status.Conditions = phase, []*openshellpb.SandboxCondition{condition}
	return &openshellpb.SandboxResponse{Sandbox: clone(sb)}, nil
}

// tails sends what `sandbox get` asks for: the sandbox as it is, and two past events.
func (g *gateway) tails(name string, out openshellpb.OpenShell_WatchSandboxServer) error {
	g.mu.Lock()
	state := clone(g.sandboxes[name])
	g.mu.Unlock()
	if err := out.Send(&openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Sandbox{Sandbox: state}}); err != nil {
		return err
	}
	for _, e := range []*openshellpb.PlatformEvent{
		{TimestampMs: 1767323045000, Type: "Normal", Source: "kubernetes", Reason: "Scheduled", Message: "somewhere"},
		{TimestampMs: 1767323046000, Type: "Warning", Source: "kubernetes", Reason: "FailedMount", Message: "secret \"x\"\x1b[2J not found"},
	} {
		if err := out.Send(&openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Event{Event: e}}); err != nil {
			return err
		}
	}
	if state.GetPhase() == ready || state.GetPhase() == openshellpb.SandboxPhase_SANDBOX_PHASE_ERROR {
		return nil
	}
	<-out.Context().Done()
	return status.FromContextError(out.Context().Err()).Err()
}

func (g *gateway) ListSandboxProviders(_ context.Context, r *openshellpb.ListSandboxProvidersRequest) (*openshellpb.ListSandboxProvidersResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &openshellpb.ListSandboxProvidersResponse{}
	for _, name := range g.sandboxes[r.GetSandboxName()].GetSpec().GetProviders() {
		if p := g.providers[name]; p != nil {
			out.Providers = append(out.Providers, p)
		}
	}
	return out, nil
}

func (g *gateway) AttachSandboxProvider(
	_ context.Context, r *openshellpb.AttachSandboxProviderRequest,
) (*openshellpb.AttachSandboxProviderResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.providers[r.GetProviderName()] == nil {
		return nil, refusal(codes.FailedPrecondition, "provider '"+r.GetProviderName()+"' not found", "PROVIDER_NOT_FOUND", "create it")
	}
	spec := g.sandboxes[r.GetSandboxName()].GetSpec()
	there := slices.Contains(spec.Providers, r.GetProviderName())
	if !there {
		spec.Providers = append(spec.Providers, r.GetProviderName())
	}
	return &openshellpb.AttachSandboxProviderResponse{Sandbox: clone(g.sandboxes[r.GetSandboxName()]), Attached: !there}, nil
}

func (g *gateway) DetachSandboxProvider(
	_ context.Context, r *openshellpb.DetachSandboxProviderRequest,
) (*openshellpb.DetachSandboxProviderResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	spec := g.sandboxes[r.GetSandboxName()].GetSpec()
	before := len(spec.Providers)
	spec.Providers = slices.DeleteFunc(spec.Providers, func(n string) bool { return n == r.GetProviderName() })
	return &openshellpb.DetachSandboxProviderResponse{
		Sandbox: clone(g.sandboxes[r.GetSandboxName()]), Detached: len(spec.Providers) < before,
	}, nil
}
