package compute

import (
	"context"
	"log/slog"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/fault"
)

// Client talks to one compute driver. It is safe for concurrent use; its errors are *fault.Error.
type Client struct {
	conn *driver.Conn
	rpc  computepb.ComputeDriverClient
	log  *slog.Logger
	times
}

// New returns a client on conn, which the caller keeps and closes.
func New(conn *driver.Conn, logger *slog.Logger) *Client {
	return &Client{conn: conn, rpc: computepb.NewComputeDriverClient(conn), log: logger, times: defaultTimes}
}

// Ready returns nil if the driver is connected and answers.
func (c *Client) Ready() error { return c.conn.Ready() }

// Capabilities asks the driver what it is.
func (c *Client) Capabilities(ctx context.Context) (Capabilities, error) {
	r, err := c.rpc.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{}, driver.Retryable())
	if err != nil {
		return Capabilities{}, err
	}
	return Capabilities{
		Name: cut(r.GetDriverName(), maxWord), Version: cut(r.GetDriverVersion(), maxWord),
		DefaultImage: cut(r.GetDefaultImage(), maxText), SupportsGPU: r.GetSupportsGpu(), GPUCount: r.GetGpuCount(),
		GatewayManagesLifecycle: r.GetGatewayManagesLifecycle(),
	}, nil
}

// Validate asks whether the driver could create the sandbox; its refusal keeps code and text unchanged.
func (c *Client) Validate(ctx context.Context, spec Spec) error {
	sandbox, err := toWire(&spec)
	if err != nil {
		return err
	}
	_, err = c.rpc.ValidateSandboxCreate(ctx, &computepb.ValidateSandboxCreateRequest{Sandbox: sandbox}, driver.Retryable())
	return err
}

// Create has the driver create the sandbox. AlreadyExists and FailedPrecondition mean that it did not; after any
// other error that the driver did not answer with (see driver.Answered) it may have.
func (c *Client) Create(ctx context.Context, spec Spec) error {
	sandbox, err := toWire(&spec)
	if err != nil {
		return err
	}
	_, err = c.rpc.CreateSandbox(ctx, &computepb.CreateSandboxRequest{Sandbox: sandbox})
	switch {
	case err == nil:
		return nil
	case driver.CodeOf(err) == codes.AlreadyExists:
		return fault.Wrap(err, fault.AlreadyExists, "SANDBOX_EXISTS", "sandbox already exists").
			WithNext("choose another name, or remove what the driver has under it")
	case driver.CodeOf(err) == codes.FailedPrecondition:
		return err
	}
	return wrap(err, "create", fault.Internal)
}

// Get returns the driver's snapshot of a sandbox; NotFound means that the driver has no such resource, any other
// error that nothing is known.
func (c *Client) Get(ctx context.Context, id, name string) (Snapshot, error) {
	r, err := c.rpc.GetSandbox(ctx, &computepb.GetSandboxRequest{SandboxId: id, SandboxName: name}, driver.Retryable())
	if err != nil {
		return Snapshot{}, err
	}
	s, err := fromWire(r.GetSandbox())
	if err != nil {
		return Snapshot{}, c.invalid("GetSandbox", err)
	}
	if s.ID != id {
		return Snapshot{}, driver.InvalidAnswer(c.conn.Name(), "GetSandbox", "asked for sandbox %q, got %q", id, s.ID)
	}
	return s, nil
}

// List returns the driver's complete list. One invalid entry makes the whole list an error: a list that misses a
// sandbox would be taken as the sandbox's end.
func (c *Client) List(ctx context.Context) ([]Snapshot, error) {
	r, err := c.rpc.ListSandboxes(ctx, &computepb.ListSandboxesRequest{}, driver.Retryable())
	if err != nil {
		return nil, err
	}
	if n := len(r.GetSandboxes()); n > maxSandboxes {
		return nil, driver.InvalidAnswer(c.conn.Name(), "ListSandboxes", "%d sandboxes, at most %d are read", n, maxSandboxes)
	}
	out := make([]Snapshot, 0, len(r.GetSandboxes()))
	seen := make(map[string]bool, len(r.GetSandboxes()))
	for _, in := range r.GetSandboxes() {
		s, err := fromWire(in)
		if err != nil {
			return nil, c.invalid("ListSandboxes", err)
		}
		if seen[s.ID] {
			return nil, driver.InvalidAnswer(c.conn.Name(), "ListSandboxes", "sandbox %q appears twice", s.ID)
		}
		seen[s.ID] = true
		out = append(out, s)
	}
	return out, nil
}

// Stop has the driver stop a sandbox and keep what is needed to start it again; it may be repeated.
func (c *Client) Stop(ctx context.Context, id, name string) error {
	_, err := c.rpc.StopSandbox(ctx, &computepb.StopSandboxRequest{SandboxId: id, SandboxName: name}, driver.Retryable())
	return wrap(err, "stop", fault.Unknown)
}

// Start has the driver start a stopped sandbox; it may be repeated. NotFound means that the resource is lost.
func (c *Client) Start(ctx context.Context, id, name string) error {
	_, err := c.rpc.StartSandbox(ctx, &computepb.StartSandboxRequest{SandboxId: id, SandboxName: name}, driver.Retryable())
	return wrap(err, "start", fault.Unknown)
}

// Delete has the driver remove a sandbox; it may be repeated. deleted is false where there was nothing to remove;
// if true, the removal has begun and the watch tells its end.
func (c *Client) Delete(ctx context.Context, id, name string) (deleted bool, err error) {
	r, err := c.rpc.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: id, SandboxName: name}, driver.Retryable())
	if driver.Answered(err) && driver.CodeOf(err) == codes.NotFound {
		// The contract wants OK with false; the meaning is the same.
		return false, nil
	}
	return r.GetDeleted(), wrap(err, "delete", fault.Internal)
}

// DeleteWorkspace has the driver remove what it keeps for a workspace, such as a namespace; it may be repeated. A driver that
// keeps nothing, or is older than workspaces, has nothing to do.
func (c *Client) DeleteWorkspace(ctx context.Context, name string) error {
	_, err := c.rpc.DeleteWorkspace(ctx, &computepb.DeleteWorkspaceRequest{Workspace: name}, driver.Retryable())
	if driver.Answered(err) && driver.CodeOf(err) == codes.Unimplemented {
		return nil
	}
	return err
}

func (c *Client) invalid(method string, err error) error {
	return driver.InvalidAnswer(c.conn.Name(), method, "%s", err)
}

// wrap puts what was attempted before a failure's text. A driver's own refusal gets the kind as, unless that is
// Unknown, which keeps the driver's; what the driver did not answer keeps its kind, reason and next step.
func wrap(err error, verb string, as fault.Kind) error {
	if err == nil {
		return nil
	}
	f := fault.From(err)
	out := &fault.Error{Kind: f.Kind, Reason: f.Reason, Message: verb + " sandbox failed: " + f.Message, Next: f.Next, Cause: err}
	if driver.Answered(err) {
		if as != fault.Unknown {
			out.Kind = as
		}
		out.Next = "look at the compute driver's log"
	}
	return out
}
