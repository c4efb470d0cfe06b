package driverkube

import (
	"context"
	"strings"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/fault"
)

// ensuredFor is how long a workspace's namespace that was made or checked stands without another look.
const ensuredFor = 10 * time.Minute

var namespaceResource = kubeapi.Resource{GroupVersion: "v1", Plural: "namespaces"}

// namespace is as much of a namespace as is needed.
type namespace struct {
	Metadata struct {
		Name              string            `json:"name"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
		Labels            map[string]string `json:"labels"`
	} `json:"metadata"`
}

// Version implements kubeapi.Object.
func (n *namespace) Version() string { return n.Metadata.ResourceVersion }

// spaces finds the namespace of a workspace, in each of the three modes. It is safe for concurrent use.
type spaces struct {
	d *Driver

	mu sync.Mutex
	// known holds the operator's namespaces: their workspace and the epoch of the list that had them.
	known   map[string]served
	synced  bool
	trouble error
	// ensured holds when a managed namespace was last made or checked.
	ensured map[string]time.Time
	// settled is closed once the operator's namespaces are known or cannot be.
	settled chan struct{}
	settle  sync.Once
	// first is closed once they are known.
	first chan struct{}
	know  sync.Once
	// changed is called when the operator's namespaces changed.
	changed func()
	// making has one namespace made at a time.
	making sync.Mutex
}

type served struct {
	workspace string
	epoch     uint64
}

func newSpaces(d *Driver) *spaces {
	return &spaces{d: d, known: make(map[string]served), ensured: make(map[string]time.Time), settled: make(chan struct{}), first: make(chan struct{})}
}

// accepts tells whether a namespace may hold sandboxes of this driver. Without this rule whoever may make objects in
// any namespace could pass one off as a sandbox.
func (s *spaces) accepts(name string) bool {
	switch s.d.opts.WorkspaceMode {
	case Managed:
		return strings.HasPrefix(name, s.d.opts.NamespacePrefix)
	case Operator:
		s.mu.Lock()
		defer s.mu.Unlock()
		_, ok := s.known[name]
		return ok
	}
	return name == s.d.opts.Namespace
}

// ready returns nil once the operator's namespaces are known.
func (s *spaces) ready() error {
	if s.d.opts.WorkspaceMode != Operator {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.trouble != nil:
		return kubeapi.Explain("follow namespaces", s.trouble)
	case !s.synced:
		return fault.New(fault.Unavailable, "DRIVER_NOT_SYNCED", "the driver has not read the cluster's namespaces yet").WithNext("try again in some seconds")
	}
	return nil
}

// awaitSync waits until the operator's namespaces are known or cannot be.
func (s *spaces) awaitSync(ctx context.Context) {
	if s.d.opts.WorkspaceMode != Operator {
		return
	}
	select {
	case <-s.settled:
	case <-ctx.Done():
	}
}

// awaitKnown waits until the operator's namespaces are known.
func (s *spaces) awaitKnown(ctx context.Context) {
	if s.d.opts.WorkspaceMode != Operator {
		return
	}
	select {
	case <-s.first:
	case <-ctx.Done():
	}
}

// of returns the namespace of a workspace; with ensure a managed one is there, complete, when it returns.
func (s *spaces) of(ctx context.Context, workspace string, ensure bool) (string, error) {
	switch s.d.opts.WorkspaceMode {
	case Managed:
		name := s.d.opts.NamespacePrefix + workspace
		if !manifest.ValidName(workspace) || !manifest.ValidName(name) {
			return "", fault.New(fault.FailedPrecondition, "WORKSPACE_UNUSABLE", "workspace %q cannot have a namespace of its own: %q is no name of a namespace", workspace, name).
				WithNext("use a shorter name of lower-case letters, digits and hyphens")
		}
		if !ensure {
			return name, nil
		}
		return name, s.ensure(ctx, name, workspace)
	case Operator:
		return s.chosen(ctx, workspace)
	}
	return s.d.opts.Namespace, nil
}

// chosen finds the one namespace that the operator labelled for a workspace.
func (s *spaces) chosen(ctx context.Context, workspace string) (string, error) {
	s.awaitSync(ctx)
	if err := s.ready(); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := ""
	for name, n := range s.known {
		if n.workspace != workspace {
			continue
		}
		if found != "" {
			return "", fault.New(fault.FailedPrecondition, "WORKSPACE_UNUSABLE", "several namespaces are labelled for workspace %q", workspace).
				WithNext("leave %s=%s on one of them", manifest.LabelServes, workspace)
		}
		found = name
	}
	if found == "" {
		return "", fault.New(fault.FailedPrecondition, "WORKSPACE_UNUSABLE", "no namespace is labelled for workspace %q", workspace).
			WithNext("have the operator label one with %s and %s=%s", s.d.opts.NamespaceLabel, manifest.LabelServes, workspace)
	}
	return found, nil
}

// ensure makes what is missing of a managed namespace.
func (s *spaces) ensure(ctx context.Context, name, workspace string) error {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	fresh := time.Since(s.ensured[name]) < ensuredFor
	s.mu.Unlock()
	if fresh {
		return nil
	}
	if err := s.own(ctx, name, workspace); err != nil {
		return err
	}
	if err := s.furnish(ctx, name, workspace); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ensured[name] = time.Now()
	return nil
}

// own makes the namespace, or checks that the one that is there is this driver's.
func (s *spaces) own(ctx context.Context, name, workspace string) error {
	const doing = "make the workspace's namespace"
	var there namespace
	err := s.d.api.Get(ctx, namespaceResource, "", name, &there)
	if kubeapi.IsNotFound(err) {
		err = s.d.api.Create(ctx, namespaceResource, "", manifest.FieldManager, s.d.opts.namespaceObject(name, workspace))
		if err == nil {
			s.d.logger.Info("namespace made", "namespace", name, "workspace", workspace)
			return nil
		}
		if kubeapi.IsAlreadyExists(err) {
			err = s.d.api.Get(ctx, namespaceResource, "", name, &there)
		}
	}
	if err != nil {
		return kubeapi.Explain(doing, err)
	}
	if there.Metadata.DeletionTimestamp != nil {
		return fault.New(fault.FailedPrecondition, kubeapi.ReasonNoNamespace, "%s: %q is being deleted", doing, name).
			WithNext("wait until it is gone, then try again")
	}
	if !s.mine(&there) {
		return fault.New(fault.FailedPrecondition, "NAMESPACE_FOREIGN", "%s: %q exists and is not this gateway's", doing, name).
			WithNext("choose another workspace name or --namespace-prefix, or remove that namespace")
	}
	return nil
}

func (s *spaces) mine(n *namespace) bool {
	return n.Metadata.Labels[manifest.LabelManagedBy] == manifest.ManagedBy && n.Metadata.Labels[manifest.LabelGateway] == s.d.opts.GatewayID
}

// remove deletes a managed workspace's namespace with all it holds; in the other modes there is nothing to do.
func (s *spaces) remove(ctx context.Context, workspace string) error {
	if s.d.opts.WorkspaceMode != Managed {
		return nil
	}
	name, err := s.of(ctx, workspace, false)
	if err != nil {
		return err
	}
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	delete(s.ensured, name)
	s.mu.Unlock()
	var there namespace
	err = s.d.api.Get(ctx, namespaceResource, "", name, &there)
	switch {
	case kubeapi.IsNotFound(err):
		return nil
	case err != nil:
		return kubeapi.Explain("delete the workspace's namespace", err)
	case !s.mine(&there):
		return fault.New(fault.FailedPrecondition, "NAMESPACE_FOREIGN", "namespace %q is not this gateway's and stays", name)
	}
	err = s.d.api.Delete(ctx, namespaceResource, "", name, kubeapi.Precondition{UID: there.Metadata.UID}, false)
	if err != nil && !kubeapi.IsNotFound(err) && !kubeapi.IsConflict(err) {
		return kubeapi.Explain("delete the workspace's namespace", err)
	}
	s.d.logger.Info("namespace deleted", "namespace", name, "workspace", workspace)
	return nil
}

// renew repairs the managed namespaces that hold sandboxes from time to time: certificates that were copied there change.
func (s *spaces) renew(ctx context.Context) {
	if s.d.opts.WorkspaceMode != Managed {
		return
	}
	ticker := time.NewTicker(ensuredFor)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for name, workspace := range s.d.mirror.Spaces() {
			err := s.ensure(ctx, name, workspace)
			if err != nil && ctx.Err() == nil {
				s.d.logger.Warn("renew a workspace's namespace", "namespace", name, "error", err)
			}
		}
	}
}

// follow keeps the operator's namespaces known until ctx ends.
func (s *spaces) follow(ctx context.Context) {
	if s.d.opts.WorkspaceMode != Operator {
		return
	}
	kubeapi.Follow(ctx, s.d.api, kubeapi.Query{
		Resource: func(context.Context) (kubeapi.Resource, error) { return namespaceResource, nil },
		Labels:   s.d.opts.NamespaceLabel,
	}, s)
}

// Put implements kubeapi.Handler.
func (s *spaces) Put(n *namespace, epoch uint64) {
	workspace := n.Metadata.Labels[manifest.LabelServes]
	s.mu.Lock()
	old, ok := s.known[n.Metadata.Name]
	s.known[n.Metadata.Name] = served{workspace: workspace, epoch: epoch}
	changed := s.synced && (!ok || old.workspace != workspace)
	s.mu.Unlock()
	if changed {
		s.changed()
	}
}

// Gone implements kubeapi.Handler. A namespace that lost its label is gone too.
func (s *spaces) Gone(n *namespace) {
	s.mu.Lock()
	delete(s.known, n.Metadata.Name)
	s.mu.Unlock()
	s.changed()
}

// Listed implements kubeapi.Handler.
func (s *spaces) Listed(epoch uint64) {
	s.mu.Lock()
	for name, n := range s.known {
		if n.epoch != epoch {
			delete(s.known, name)
		}
	}
	s.synced, s.trouble = true, nil
	s.mu.Unlock()
	s.changed()
	s.know.Do(func() { close(s.first) })
	s.settle.Do(func() { close(s.settled) })
}

// Watching implements kubeapi.Handler.
func (s *spaces) Watching() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = nil
}

// Failed implements kubeapi.Handler.
func (s *spaces) Failed(err error) {
	s.mu.Lock()
	first := s.trouble == nil
	s.trouble = err
	s.mu.Unlock()
	s.settle.Do(func() { close(s.settled) })
	if first {
		s.d.logger.Warn("namespaces cannot be followed; trying again", "error", err)
	}
}
