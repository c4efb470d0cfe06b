package mirror

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

// Config says what to follow.
type Config struct {
	Client   *kubeapi.Client
	Versions *kubeapi.Versions
	// Namespace is the one that holds all sandboxes; empty means that they are in several, which Accept tells apart.
	Namespace string
	Accept    func(namespace string) bool
	// Selector selects the objects and the pods of this driver.
	Selector string
	// Verify is called, outside of any lock, with the id of a sandbox that was made here and that a list of the API
	// did not have: it finds out and calls Forget or nothing.
	Verify func(id string)
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Mirror is safe for concurrent use. Run feeds it.
type Mirror struct {
	c Config

	mu      sync.Mutex
	entries map[string]*entry
	// named finds an entry by its object's namespace and name.
	named map[string]*entry
	// pods are found by the uid of the object that controls them, which nobody can claim by a label; owners finds the
	// entry of that uid.
	pods     map[string]*podRecord
	owners   map[string]*entry
	watchers map[*Watcher]struct{}
	// changed is closed and replaced whenever anything changes.
	changed chan struct{}
	streams [streamCount]stream
	events  uint64
}

// entry is what is kept of a sandbox.
type entry struct {
	id, uid, object string
	name            string
	namespace       unique.Handle[string]
	workspace       unique.Handle[string]
	isolation       unique.Handle[string]
	sandbox         verdict.SandboxState
	pod             *verdict.PodState
	note            *verdict.Note
	epoch           uint64
	// local tells that no list and no watch has shown it yet: it was made here.
	local bool
	// told is the status that watchers know.
	told verdict.Status
}

type podRecord struct {
	state verdict.PodState
	epoch uint64
}

// New returns an empty mirror.
func New(c Config) *Mirror {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Mirror{
		c: c, entries: make(map[string]*entry), named: make(map[string]*entry), owners: make(map[string]*entry), pods: make(map[string]*podRecord),
		watchers: make(map[*Watcher]struct{}), changed: make(chan struct{}),
	}
}

// Run follows Kubernetes until ctx ends.
func (m *Mirror) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() {
		kubeapi.Follow(ctx, m.c.Client, kubeapi.Query{
			Resource: m.sandboxResource, Namespace: m.c.Namespace, Labels: m.c.Selector,
		}, &sandboxes{m})
	})
	group.Go(func() {
		kubeapi.Follow(ctx, m.c.Client, kubeapi.Query{
			Resource: fixed("pods"), Namespace: m.c.Namespace, Labels: m.c.Selector,
		}, &pods{m})
	})
	group.Go(func() {
		kubeapi.Follow(ctx, m.c.Client, kubeapi.Query{Resource: fixed("events"), Namespace: m.c.Namespace}, &events{m: m, newest: m.c.Now()})
	})
	group.Wait()
}

func fixed(plural string) func(context.Context) (kubeapi.Resource, error) {
	return func(context.Context) (kubeapi.Resource, error) {
		return kubeapi.Resource{GroupVersion: "v1", Plural: plural}, nil
	}
}

// sandboxResource asks the cluster anew each time, so that an upgrade of the definition is noticed.
func (m *Mirror) sandboxResource(ctx context.Context) (kubeapi.Resource, error) {
	m.c.Versions.Forget()
	return m.c.Versions.Sandboxes(ctx)
}

func newEntry(s *verdict.Sandbox) *entry {
	e := &entry{id: s.Metadata.Labels.ID}
	e.update(s)
	return e
}

func (e *entry) update(s *verdict.Sandbox) {
	if e.uid != s.Metadata.UID {
		// Another object of the same sandbox: nothing of the old one holds.
		e.uid, e.note = s.Metadata.UID, nil
	}
	e.object, e.name = s.Metadata.Name, s.Metadata.Annotations.Name
	if e.name == "" {
		e.name = e.object
	}
	e.namespace = unique.Make(s.Metadata.Namespace)
	e.workspace = unique.Make(s.Metadata.Annotations.Workspace)
	e.isolation = unique.Make(s.Metadata.Annotations.Isolation)
	e.sandbox = verdict.OfSandbox(s)
}

// accepts tells whether an object is one of this driver's sandboxes.
func (m *Mirror) accepts(s *verdict.Sandbox) bool {
	return s.Metadata.Labels.ID != "" && s.Metadata.Labels.ManagedBy == manifest.ManagedBy &&
		(m.c.Accept == nil || m.c.Accept(s.Metadata.Namespace))
}

// Made puts a sandbox that was just made or changed through the API, before any watch tells of it.
func (m *Mirror) Made(s *verdict.Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[s.Metadata.Labels.ID] != nil {
		return
	}
	e := newEntry(s)
	e.local = true
	m.add(e)
}

func (m *Mirror) add(e *entry) {
	m.entries[e.id] = e
	m.join(e)
	e.told = e.status()
	m.tell(e.id)
}

// join makes an entry found by name and by uid, and gives it its pod.
func (m *Mirror) join(e *entry) {
	m.named[key(e.namespace.Value(), e.object)] = e
	m.owners[e.uid] = e
	e.pod = nil
	if p := m.pods[e.uid]; p != nil {
		e.pod = &p.state
	}
}

// part undoes join.
func (m *Mirror) part(e *entry) {
	if at := key(e.namespace.Value(), e.object); m.named[at] == e {
		delete(m.named, at)
	}
	delete(m.owners, e.uid)
}

// put is Made for what Kubernetes tells.
func (m *Mirror) put(s *verdict.Sandbox, epoch uint64) {
	accepted := m.accepts(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[s.Metadata.Labels.ID]
	// What is known does not end because its namespace is no longer chosen: nobody deleted it.
	if !accepted && (e == nil || e.uid != s.Metadata.UID) {
		return
	}
	if e == nil {
		e = newEntry(s)
		e.epoch = epoch
		m.add(e)
		return
	}
	if e.uid != s.Metadata.UID && e.epoch == epoch && !s.Metadata.CreationTimestamp.Before(e.sandbox.Created) {
		// Of two objects that claim to be one sandbox, the older is it.
		return
	}
	e.epoch, e.local = epoch, false
	m.part(e)
	e.update(s)
	m.join(e)
	m.refresh(e)
}

// refresh tells watchers of an entry if there is anything new to tell.
func (m *Mirror) refresh(e *entry) {
	now := e.status()
	if same(now, e.told) {
		return
	}
	if p := now.Problem; p != nil && (e.told.Problem == nil || *e.told.Problem != *p) {
		m.warn(e.id, p)
	}
	e.told = now
	m.tell(e.id)
}

// warn passes a problem on at the moment it shows: a status that passes is easily missed.
func (m *Mirror) warn(id string, p *verdict.Problem) {
	event := happening(id, &computepb.DriverPlatformEvent{
		TimestampMs: m.c.Now().UnixMilli(), Source: eventSource, Type: "Warning", Reason: p.Word, Message: p.Message(),
	})
	for w := range m.watchers {
		w.pass(event)
	}
}

// eventSource is the source of the driver's own events.
const eventSource = "kubernetes"

func same(a, b verdict.Status) bool {
	p, q := a.Problem, b.Problem
	a.Problem, b.Problem = nil, nil
	return a == b && (p == q || p != nil && q != nil && *p == *q)
}

// tell has watchers and waiters look at a sandbox. The caller holds the mutex.
func (m *Mirror) tell(id string) {
	for w := range m.watchers {
		w.put(id)
	}
	m.wake()
}

// Forget removes a sandbox that is certainly gone.
func (m *Mirror) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(id, "")
}

// forget removes a sandbox, with a uid only if it is that very object. The caller holds the mutex.
func (m *Mirror) forget(id, uid string) {
	e := m.entries[id]
	if e == nil || uid != "" && e.uid != uid {
		return
	}
	delete(m.entries, id)
	m.part(e)
	m.tell(id)
}

// listed removes what the newest list did not have.
func (m *Mirror) listed(epoch uint64) {
	m.mu.Lock()
	var doubtful []string
	for id, e := range m.entries {
		switch {
		case e.epoch == epoch:
		case e.local:
			// The list may be older than the object.
			doubtful = append(doubtful, id)
		default:
			m.forget(id, "")
		}
	}
	m.streams[streamSandboxes].sync()
	m.wake()
	m.mu.Unlock()
	for _, id := range doubtful {
		m.c.Verify(id)
	}
}

func (m *Mirror) putPod(p *verdict.Pod, epoch uint64) {
	state := verdict.OfPod(p)
	if state.Owner == "" {
		return
	}
	state.Node = unique.Make(state.Node).Value()
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.pods[state.Owner]
	record := &podRecord{state: state, epoch: epoch}
	m.pods[state.Owner] = record
	e := m.owners[state.Owner]
	if e == nil {
		return
	}
	e.pod = &record.state
	if state.Ready {
		e.note = nil
		// A restart that was over before anybody looked is told all the same.
		if old != nil && old.state.UID == state.UID && state.Restarts > old.state.Restarts && state.Restarted != nil {
			m.warn(e.id, state.Restarted)
		}
	}
	m.refresh(e)
}

// dropPod removes a pod, with a uid only if it is that very pod. The caller holds the mutex.
func (m *Mirror) dropPod(owner, uid string) {
	if p := m.pods[owner]; p == nil || uid != "" && p.state.UID != uid {
		return
	}
	delete(m.pods, owner)
	if e := m.owners[owner]; e != nil {
		e.pod = nil
		m.refresh(e)
	}
}

func (m *Mirror) listedPods(epoch uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for owner, p := range m.pods {
		if p.epoch != epoch {
			m.dropPod(owner, "")
		}
	}
	m.streams[streamPods].sync()
	m.wake()
}

// Get returns a sandbox, nil if the mirror has none of this id.
func (m *Mirror) Get(id string) *computepb.DriverSandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[id]; e != nil {
		return e.snapshot()
	}
	return nil
}

// Named returns the ids of the sandboxes of a name, in any workspace.
func (m *Mirror) Named(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id, e := range m.entries {
		if e.name == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// All returns every sandbox by id.
func (m *Mirror) All() []*computepb.DriverSandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*computepb.DriverSandbox, 0, len(m.entries))
	for _, e := range m.entries {
		out = append(out, e.snapshot())
	}
	slices.SortFunc(out, func(a, b *computepb.DriverSandbox) int { return strings.Compare(a.GetId(), b.GetId()) })
	return out
}

// Spaces returns the namespaces that hold sandboxes, each with the workspace of one of them.
func (m *Mirror) Spaces() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]string)
	for _, e := range m.entries {
		out[e.namespace.Value()] = e.workspace.Value()
	}
	return out
}

// Place is where a sandbox's object is.
type Place struct{ Namespace, Name, UID string }

// Find returns where a sandbox's object is, as far as the mirror knows.
func (m *Mirror) Find(id string) (Place, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id]
	if e == nil {
		return Place{}, false
	}
	return Place{Namespace: e.namespace.Value(), Name: e.object, UID: e.uid}, true
}

// Await waits until ok accepts what is told of a sandbox, whose second argument is false while there is none. It
// returns ctx's error when ctx ends first.
func (m *Mirror) Await(ctx context.Context, id string, ok func(verdict.Status, bool) bool) error {
	for {
		m.mu.Lock()
		var status verdict.Status
		e := m.entries[id]
		if e != nil {
			status = e.status()
		}
		changed := m.changed
		m.mu.Unlock()
		if ok(status, e != nil) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Counts returns how many sandboxes there are by what is told of them, and how many events were read.
func (m *Mirror) Counts() (states map[string]int, events uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	states = map[string]int{"ready": 0, "starting": 0, "stopped": 0, "deleting": 0, "failed": 0}
	for _, e := range m.entries {
		s := e.told
		switch {
		case s.Deleting:
			states["deleting"]++
		case s.Suspended:
			states["stopped"]++
		case s.Ready:
			states["ready"]++
		case s.Problem != nil && !s.Problem.Passing:
			states["failed"]++
		default:
			states["starting"]++
		}
	}
	return states, m.events
}
