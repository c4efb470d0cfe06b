package v00

import (
	"context"
	"strings"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
)

type sandboxHandler struct {
	sandboxes *sandbox.Service
}

func (h sandboxHandler) CreateSandbox(ctx context.Context, req *openshellpb.CreateSandboxRequest) (*openshellpb.SandboxResponse, error) {
	spec, err := specFromWire(req.Spec)
	if err != nil {
		return nil, err
	}
	sb, err := h.sandboxes.Create(ctx, sandbox.CreateRequest{
		Workspace: req.Workspace, Name: req.Name, Labels: req.Labels, Annotations: req.Annotations,
		Spec: spec,
	})
	if err != nil {
		return nil, err
	}
	return sandboxResponse(sb)
}

func (h sandboxHandler) GetSandbox(ctx context.Context, req *openshellpb.GetSandboxRequest) (*openshellpb.SandboxResponse, error) {
	sb, err := h.sandboxes.ByName(ctx, req.Workspace, req.Name)
	if err != nil {
		return nil, err
	}
	return sandboxResponse(sb)
}

func (h sandboxHandler) ListSandboxes(ctx context.Context, req *openshellpb.ListSandboxesRequest) (*openshellpb.ListSandboxesResponse, error) {
	labels, err := parseSelector(req.LabelSelector)
	if err != nil {
		return nil, err
	}
	list, err := h.sandboxes.List(ctx, sandbox.Query{
		Workspace: req.Workspace, AllWorkspaces: req.AllWorkspaces, Labels: labels, Limit: req.Limit, Offset: req.Offset,
	})
	if err != nil {
		return nil, err
	}
	encoded := make([][]byte, len(list))
	size := 0
	for i, sb := range list {
		if encoded[i], err = encodeSandbox(sb); err != nil {
			return nil, err
		}
		size += len(encoded[i])
	}
	all := make([]byte, 0, size)
	for _, e := range encoded {
		all = append(all, e...)
	}
	resp := &openshellpb.ListSandboxesResponse{}
	resp.ProtoReflect().SetUnknown(all)
	return resp, nil
}

func (h sandboxHandler) DeleteSandbox(ctx context.Context, req *openshellpb.DeleteSandboxRequest) (*openshellpb.DeleteSandboxResponse, error) {
	deleted, err := h.sandboxes.Delete(ctx, req.Workspace, req.Name)
	if err != nil {
		return nil, err
	}
	return &openshellpb.DeleteSandboxResponse{Deleted: deleted}, nil
}

// StopSandbox answers once the driver has stopped the sandbox, or with phase STOPPING where that takes longer.
func (h sandboxHandler) StopSandbox(ctx context.Context, req *openshellpb.StopSandboxRequest) (*openshellpb.SandboxResponse, error) {
	sb, err := h.sandboxes.Stop(ctx, req.Workspace, req.Name)
	if err != nil {
		return nil, err
	}
	return sandboxResponse(sb)
}

// StartSandbox answers once the driver has started the sandbox; it is READY when its supervisor has connected.
func (h sandboxHandler) StartSandbox(ctx context.Context, req *openshellpb.StartSandboxRequest) (*openshellpb.SandboxResponse, error) {
	sb, err := h.sandboxes.Start(ctx, req.Workspace, req.Name)
	if err != nil {
		return nil, err
	}
	return sandboxResponse(sb)
}

func sandboxResponse(sb *sandbox.Sandbox) (*openshellpb.SandboxResponse, error) {
	raw, err := encodeSandbox(sb)
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.SandboxResponse{}
	resp.ProtoReflect().SetUnknown(raw)
	return resp, nil
}

// maxSelectorPairs bounds a label selector.
const maxSelectorPairs = 64

// parseSelector reads "key=value,key=value": exact matches only, blanks and stray commas ignored.
func parseSelector(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		pair = strings.TrimSpace(pair)
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.HasSuffix(key, "!") || strings.HasPrefix(value, "=") {
			return nil, fault.New(fault.InvalidArgument, "LABEL_SELECTOR", "label selector: expected 'key=value'").
				WithNext("list exact matches separated by commas; other operators are not supported")
		}
		out[key] = strings.TrimSpace(value)
		if len(out) > maxSelectorPairs {
			return nil, fault.New(fault.InvalidArgument, "LABEL_SELECTOR", "label selector exceeds maximum entries (%d > %d)", len(out), maxSelectorPairs)
		}
	}
	return out, nil
}
