package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// driver is a compute driver with behaviour and fault hooks.
type driver struct {
	mu      sync.Mutex
	boxes   map[string]compute.Spec
	deletes int
	// Hooks return the error of the call; nil hooks and nil errors mean the call works.
	onValidate, onCreate, onDelete, onGet, onStop, onStart func() error
	// deleteIsFinal makes Delete report that nothing was left.
	deleteIsFinal bool
	// stopped are the sandboxes that do not run; reports makes Get tell.
	stopped map[string]bool
	reports bool
	// after is what a stop or start that was carried out answers.
	after func() error
	// report takes the place of what Get tells.
	report func(id string) (compute.Snapshot, error)
	// managed makes the driver leave starting and stopping with the gateway to the gateway.
	managed       bool
	stops, starts int
}

func hook(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (d *driver) Capabilities(context.Context) (compute.Capabilities, error) {
	return compute.Capabilities{DefaultImage: "default:1", GatewayManagesLifecycle: d.managed}, nil
}

func (d *driver) Validate(context.Context, compute.Spec) error { return hook(d.onValidate) }

func (d *driver) Create(_ context.Context, s compute.Spec) error {
	if err := hook(d.onCreate); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.boxes[s.ID]; ok {
		return fault.New(fault.AlreadyExists, "X", "sandbox already exists")
	}
	d.boxes[s.ID] = s
	return nil
}

func (d *driver) Get(_ context.Context, id, _ string) (compute.Snapshot, error) {
	if err := hook(d.onGet); err != nil {
		return compute.Snapshot{}, err
	}
	if d.report != nil {
		return d.report(id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.boxes[id]; !ok {
		return compute.Snapshot{}, fault.New(fault.NotFound, "X", "gone")
	}
	if d.reports {
		return d.snapshot(id), nil
	}
	return compute.Snapshot{ID: id}, nil
}

// snapshot is what the driver would report. The caller holds the lock.
func (d *driver) snapshot(id string) compute.Snapshot {
	if d.stopped[id] {
		s := ready(id, "False", "ContainerStopped")
		s.Conditions = append(s.Conditions, compute.Condition{Type: "Suspended", Status: "True", Reason: "ContainerStopped"})
		return s
	}
	return ready(id, "True", "Running")
}

// list is the driver's complete list.
func (d *driver) list() []compute.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []compute.Snapshot
	for id := range d.boxes {
		out = append(out, d.snapshot(id))
	}
	return out
}

func (d *driver) Stop(_ context.Context, id, _ string) error {
	return d.run(id, false, d.onStop, &d.stops)
}

func (d *driver) Start(_ context.Context, id, _ string) error {
	return d.run(id, true, d.onStart, &d.starts)
}

func (d *driver) run(id string, on bool, before func() error, count *int) error {
	if err := hook(before); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	*count++
	if _, ok := d.boxes[id]; !ok {
		return fault.New(fault.NotFound, "X", "gone")
	}
	if d.stopped == nil {
		d.stopped = map[string]bool{}
	}
	d.stopped[id] = !on
	return hook(d.after)
}

func (d *driver) Delete(_ context.Context, id, _ string) (bool, error) {
	d.mu.Lock()
	d.deletes++
	d.mu.Unlock()
	if err := hook(d.onDelete); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.boxes[id]
	delete(d.boxes, id)
	return ok && !d.deleteIsFinal, nil
}

func (d *driver) ids() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for id := range maps.Keys(d.boxes) {
		out = append(out, id)
	}
	return out
}

type sessions struct {
	mu        sync.Mutex
	connected map[string]bool
	// instance is every supervisor's; empty means "main-1".
	instance string
}

func (s *sessions) Connected(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instance != "" {
		return s.instance, s.connected[id]
	}
	return "main-1", s.connected[id]
}

func (s *sessions) Disconnect(id, _ string) { s.set(id, false) }

func (s *sessions) has(id string) bool {
	_, ok := s.Connected(id)
	return ok
}

func (s *sessions) set(id string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected[id] = on
}

type tokens struct{}

func (tokens) Mint(id string) (string, time.Time, error) { return "token-of-" + id, time.Time{}, nil }

type providers struct{}

func (providers) CheckAttachable(_ context.Context, _ string, names []string) error {
	for _, n := range names {
		if n == "absent" {
			return fault.New(fault.FailedPrecondition, "PROVIDER_NOT_FOUND", "provider 'absent' not found")
		}
	}
	return nil
}

func (p providers) Attach(ctx context.Context, workspace string, names []string, write func() error) error {
	if err := p.CheckAttachable(ctx, workspace, names); err != nil {
		return err
	}
	return write()
}

// everybody may do everything, and everywhere is a workspace: who may what is tested where there are roles.
type everybody struct{}

func (everybody) Workspace(*principal.Principal, string, authz.Role) error { return nil }
func (everybody) PlatformAdmin(*principal.Principal) error                 { return nil }
func (everybody) Sees(*principal.Principal, string, string) bool           { return true }
func (everybody) Limit(*principal.Principal, string) (string, bool)        { return "", false }

type everywhere struct{}

func (everywhere) Check(string) error                     { return nil }
func (everywhere) Use(_ string, write func() error) error { return write() }

type fixture struct {
	*sandbox.Service
	driver   *driver
	sessions *sessions
	store    *store.Store
}

// reopen builds a service over an existing store, as a restart does.
func reopen(t *testing.T, st *store.Store, d *driver) *fixture {
	t.Helper()
	f := &fixture{driver: d, sessions: &sessions{connected: map[string]bool{}}, store: st}
	f.Service = sandbox.NewService(sandbox.Config{
		Store: st, Driver: d, Sessions: f.sessions, Tokens: tokens{}, Providers: providers{},
		Logs: sandboxlog.NewHub(1 << 20), Logger: slog.New(slog.DiscardHandler), Access: everybody{}, Workspaces: everywhere{},
	})
	t.Cleanup(f.Service.Wait)
	return f
}

func open(t *testing.T) *fixture {
	t.Helper()
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return reopen(t, st, &driver{boxes: map[string]compute.Spec{}})
}

func (f *fixture) create(t *testing.T, name string) *sandbox.Sandbox {
	t.Helper()
	sb, err := f.Create(t.Context(), sandbox.CreateRequest{Name: name, Spec: &sandbox.Spec{}})
	if err != nil {
		t.Fatal(err)
	}
	f.Wait()
	return sb
}

func ready(id, status, reason string) compute.Snapshot {
	return compute.Snapshot{ID: id, HasStatus: true, Conditions: []compute.Condition{{Type: "Ready", Status: status, Reason: reason}}}
}

func (f *fixture) phase(t *testing.T, id string) sandbox.Phase {
	t.Helper()
	sb, err := f.ByID(id)
	if err != nil {
		t.Fatal(err)
	}
	return sb.Phase
}

func TestCreateAnswersProvisioningWithDefaults(t *testing.T) {
	t.Parallel()
	f := open(t)
	sb := f.create(t, "")
	if sb.Phase != sandbox.PhaseProvisioning {
		t.Errorf("phase = %d, want PROVISIONING", sb.Phase)
	}
	a, b, ok := strings.Cut(sb.Object.Name, "-")
	if !ok || a == "" || b == "" || len(sb.Object.Name) > sandbox.MaxGeneratedName || strings.Trim(a+b, "abcdefghijklmnopqrstuvwxyz") != "" {
		t.Errorf("generated name %q is not two lower-case words", sb.Object.Name)
	}
	spec := f.driver.boxes[sb.Object.ID]
	if spec.Template.Image != "default:1" || spec.Token != "token-of-"+sb.Object.ID {
		t.Errorf("driver got image %q and token %q", spec.Template.Image, spec.Token)
	}
}

func TestCreateLimits(t *testing.T) {
	t.Parallel()
	f := open(t)
	long := func(n int) string { return strings.Repeat("a", n) }
	env := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("K", i)] = "v"
		}
		return m
	}
	list := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprint("p", i)
		}
		return out
	}
	for name, make := range map[string]func(over int) sandbox.CreateRequest{
		"name": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Name: long(253 + o), Spec: &sandbox.Spec{}}
		},
		"providers": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Providers: list(32 + o)}}
		},
		"log level": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{LogLevel: long(32 + o)}}
		},
		"environment entries": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Environment: env(128 + o)}}
		},
		"environment key": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Environment: map[string]string{long(256 + o): "v"}}}
		},
		"environment value": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Environment: map[string]string{"K": long(8192 + o)}}}
		},
		"image": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Template: sandbox.Template{Image: long(1024 + o)}}}
		},
		"template labels": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Template: sandbox.Template{Labels: env(128 + o)}}}
		},
		"policy": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Policy: []byte(long(262144 + o))}}
		},
		"command arguments": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Command: list(256 + o)}}
		},
		"command argument": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Spec: &sandbox.Spec{Command: []string{long(32<<10 + o)}}}
		},
		"label value": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Labels: map[string]string{"k": long(63 + o)}, Spec: &sandbox.Spec{}}
		},
		"labels": func(o int) sandbox.CreateRequest {
			return sandbox.CreateRequest{Labels: env(limits.MaxLabels + o), Spec: &sandbox.Spec{}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := f.Create(t.Context(), make(0)); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if _, err := f.Create(t.Context(), make(1)); !fault.Is(err, fault.InvalidArgument) {
				t.Errorf("one past the limit: %v, want InvalidArgument", err)
			}
		})
	}
}

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "taken")
	for name, tc := range map[string]struct {
		req  sandbox.CreateRequest
		kind fault.Kind
		text string
	}{
		"no spec":              {sandbox.CreateRequest{}, fault.InvalidArgument, "spec is required"},
		"absent provider":      {sandbox.CreateRequest{Spec: &sandbox.Spec{Providers: []string{"absent"}}}, fault.FailedPrecondition, "provider 'absent' not found"},
		"taken name":           {sandbox.CreateRequest{Name: "taken", Spec: &sandbox.Spec{}}, fault.AlreadyExists, "sandbox 'taken' already exists"},
		"name with a capital":  {sandbox.CreateRequest{Name: "Abc", Spec: &sandbox.Spec{}}, fault.InvalidArgument, "lowercase"},
		"reserved environment": {sandbox.CreateRequest{Spec: &sandbox.Spec{Environment: map[string]string{"OPENSHELL_SANDBOX_ID": "x"}}}, fault.InvalidArgument, "are reserved"},
		"newline in a value":   {sandbox.CreateRequest{Spec: &sandbox.Spec{Environment: map[string]string{"A": "x\ny"}}}, fault.InvalidArgument, "one line"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := f.Create(t.Context(), tc.req)
			if !fault.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("Create = %v, want kind %d with %q", err, tc.kind, tc.text)
			}
		})
	}
}

func TestConcurrentCreatesOfOneName(t *testing.T) {
	t.Parallel()
	f := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		wg.Go(func() {
			_, err := f.Create(t.Context(), sandbox.CreateRequest{Name: "one", Spec: &sandbox.Spec{}})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !fault.Is(err, fault.AlreadyExists):
				t.Errorf("loser got %v", err)
			}
		})
	}
	wg.Wait()
	sb, err := f.ByName(t.Context(), "", "one")
	if err != nil || won != 1 {
		t.Fatalf("%d creates won, ByName: %v", won, err)
	}
	if ids := f.driver.ids(); len(ids) != 1 || ids[0] != sb.Object.ID {
		t.Errorf("driver has %v, stored is %s", ids, sb.Object.ID)
	}
}

func TestDriverRefusalLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err     error
		kind    fault.Kind
		deletes int
	}{
		"already exists":      {fault.New(fault.AlreadyExists, "X", "sandbox already exists"), fault.AlreadyExists, 0},
		"failed precondition": {fault.New(fault.FailedPrecondition, "X", "no such image"), fault.FailedPrecondition, 0},
		"unavailable":         {fault.New(fault.Unavailable, "X", "driver away"), fault.Unavailable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			f.driver.onCreate = func() error { return tc.err }
			_, err := f.Create(t.Context(), sandbox.CreateRequest{Name: "x", Spec: &sandbox.Spec{}})
			if !fault.Is(err, tc.kind) {
				t.Errorf("Create = %v", err)
			}
			if _, err := f.ByName(t.Context(), "", "x"); !fault.Is(err, fault.NotFound) {
				t.Errorf("the row is left: %v", err)
			}
			if f.driver.deletes != tc.deletes {
				t.Errorf("driver was asked to delete %d times, want %d", f.driver.deletes, tc.deletes)
			}
		})
	}
}

func TestCreateOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	f := open(t)
	begun, proceed := make(chan struct{}), make(chan struct{})
	f.driver.onCreate = func() error {
		close(begun)
		<-proceed
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := f.Create(ctx, sandbox.CreateRequest{Name: "x", Spec: &sandbox.Spec{}})
		done <- err
	}()
	<-begun
	cancel()
	if err := <-done; !fault.Is(err, fault.Canceled) {
		t.Errorf("cancelled Create = %v", err)
	}
	close(proceed)
	f.Wait()
	if sb, err := f.ByName(t.Context(), "", "x"); err != nil || !sb.Accepted {
		t.Errorf("after the caller left: %+v, %v; want an accepted sandbox", sb, err)
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		snap      compute.Snapshot
		connected bool
		want      sandbox.Phase
	}{
		"ready without session":     {ready("", "True", "Running"), false, sandbox.PhaseProvisioning},
		"ready with session":        {ready("", "TRUE", "Running"), true, sandbox.PhaseReady},
		"session before ready":      {ready("", "False", "Starting"), true, sandbox.PhaseReady},
		"transient reason":          {ready("", "False", "ContainerStarting"), false, sandbox.PhaseProvisioning},
		"unknown reason":            {ready("", "False", "Exploded"), false, sandbox.PhaseError},
		"empty reason":              {ready("", "False", ""), false, sandbox.PhaseError},
		"error beats session":       {ready("", "False", "Exploded"), true, sandbox.PhaseError},
		"unknown status":            {ready("", "Unknown", ""), false, sandbox.PhaseProvisioning},
		"deleting beats ready":      {compute.Snapshot{Deleting: true, HasStatus: true, Conditions: ready("", "True", "").Conditions}, true, sandbox.PhaseDeleting},
		"no conditions":             {compute.Snapshot{HasStatus: true}, false, sandbox.PhaseProvisioning},
		"no status":                 {compute.Snapshot{}, false, sandbox.PhaseProvisioning},
		"suspended":                 {compute.Snapshot{HasStatus: true, Conditions: []compute.Condition{{Type: "suspended", Status: "true"}}}, false, sandbox.PhaseStopped},
		"lower-case type is no one": {compute.Snapshot{HasStatus: true, Conditions: []compute.Condition{{Type: "ready", Status: "False"}}}, false, sandbox.PhaseProvisioning},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			id := f.create(t, "x").Object.ID
			tc.snap.ID, tc.snap.Name = id, "renamed"
			f.Changed(t.Context(), tc.snap)
			f.sessions.set(id, tc.connected)
			if got := f.phase(t, id); got != tc.want {
				t.Errorf("phase = %d, want %d", got, tc.want)
			}
			if sb, _ := f.ByID(id); sb.Object.Name != "x" {
				t.Errorf("the driver renamed the sandbox to %q", sb.Object.Name)
			}
		})
	}
}

func TestUnknownSnapshotIsNotAdopted(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.Changed(t.Context(), ready("stranger", "True", ""))
	if n := f.store.Count(sandbox.Kind); n != 0 {
		t.Errorf("%d rows after a stranger's snapshot", n)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	f := open(t)
	if _, err := f.Delete(t.Context(), "", "absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("delete of an absent sandbox: %v", err)
	}
	if _, err := f.Delete(t.Context(), "", ""); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("delete without a name: %v", err)
	}
	id := f.create(t, "x").Object.ID
	deleted, err := f.Delete(t.Context(), "", "x")
	if err != nil || !deleted {
		t.Fatalf("Delete = %v, %v", deleted, err)
	}
	if f.phase(t, id) != sandbox.PhaseDeleting {
		t.Error("accepted deletion does not show")
	}
	f.Deleted(t.Context(), id)
	if _, err := f.ByID(id); !fault.Is(err, fault.NotFound) {
		t.Errorf("after the driver's word: %v", err)
	}
	f.create(t, "x")
	f.driver.deleteIsFinal = true
	if deleted, err := f.Delete(t.Context(), "", "x"); err != nil || deleted {
		t.Errorf("Delete with nothing left = %v, %v", deleted, err)
	}
	if _, err := f.ByName(t.Context(), "", "x"); !fault.Is(err, fault.NotFound) {
		t.Errorf("row is left: %v", err)
	}
}

func TestDeleteIsFinishedAfterTheDriverReturns(t *testing.T) {
	t.Parallel()
	f := open(t)
	id := f.create(t, "x").Object.ID
	f.driver.onDelete = func() error { return fault.New(fault.Unavailable, "X", "away") }
	if _, err := f.Delete(t.Context(), "", "x"); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("Delete with the driver away: %v", err)
	}
	if f.phase(t, id) != sandbox.PhaseDeleting {
		t.Error("the intent is not kept")
	}
	f.driver.onDelete, f.driver.deleteIsFinal = nil, true
	f.Listed(t.Context(), []compute.Snapshot{ready(id, "True", "")})
	if _, err := f.ByID(id); !fault.Is(err, fault.NotFound) {
		t.Errorf("deletion was not finished: %v", err)
	}
}

// A gateway that dies between storing the intent and the driver's answer leaves a row that the next one completes.
func TestRestartFinishesAnInterruptedCreate(t *testing.T) {
	t.Parallel()
	for name, driverHasIt := range map[string]bool{"driver never heard": false, "driver has it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			crash := errors.New("crash")
			proceed := make(chan struct{})
			f.driver.onCreate = func() error {
				<-proceed
				return crash
			}
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				_, _ = f.Create(ctx, sandbox.CreateRequest{Name: "x", Spec: &sandbox.Spec{}})
			}()
			var id string
			w := f.store.Watch(0)
			change, err := w.Next(t.Context())
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			id = change.Object.ID

			d := &driver{boxes: map[string]compute.Spec{}}
			var list []compute.Snapshot
			if driverHasIt {
				d.boxes[id] = compute.Spec{ID: id}
				list = []compute.Snapshot{ready(id, "True", "")}
			}
			next := reopen(t, f.store, d)
			next.Listed(t.Context(), list)
			sb, err := next.ByID(id)
			if err != nil || !sb.Accepted {
				t.Errorf("after the restart: %+v, %v; want an accepted sandbox", sb, err)
			}
			if ids := d.ids(); len(ids) != 1 {
				t.Errorf("driver has %v", ids)
			}
			cancel()
			close(proceed)
			<-returned
		})
	}
}

// A driver that answers its list and fails the create right after gets another chance without losing its connection.
func TestInterruptedCreateIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := open(t)
		hang, release := context.WithCancel(t.Context())
		f.driver.onCreate = func() error {
			<-hang.Done()
			return errors.New("crash")
		}
		caller, leave := context.WithCancel(t.Context())
		go func() { _, _ = f.Create(caller, sandbox.CreateRequest{Name: "x", Spec: &sandbox.Spec{}}) }()
		synctest.Wait()
		sb, err := f.ByName(t.Context(), "", "x")
		if err != nil {
			t.Fatal(err)
		}

		d := &driver{boxes: map[string]compute.Spec{}}
		next := reopen(t, f.store, d)
		var busy atomic.Bool
		busy.Store(true)
		d.onCreate = func() error {
			if busy.Load() {
				return fault.New(fault.ResourceExhausted, "X", "busy")
			}
			return nil
		}
		next.Listed(t.Context(), nil)
		retrying, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- next.Retry(retrying) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, err := next.ByID(sb.Object.ID); err != nil || got.Accepted {
			t.Errorf("while the driver is busy: %+v, %v; want the row, not accepted", got, err)
		}
		busy.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, err := next.ByID(sb.Object.ID); err != nil || !got.Accepted {
			t.Errorf("after the driver was busy: %+v, %v; want an accepted sandbox", got, err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		leave()
		release()
		f.Wait()
	})
}

func TestVanishedResource(t *testing.T) {
	t.Parallel()
	f := open(t)
	id := f.create(t, "x").Object.ID
	f.driver.onGet = func() error { return fault.New(fault.Unavailable, "X", "away") }
	f.Listed(t.Context(), nil)
	if _, err := f.ByID(id); err != nil {
		t.Fatalf("a list and a failed lookup removed the row: %v", err)
	}
	f.driver.onGet = nil
	f.Listed(t.Context(), nil)
	if _, err := f.ByID(id); err != nil {
		t.Fatalf("a stale list removed a row whose resource is there: %v", err)
	}
	delete(f.driver.boxes, id)
	f.Listed(t.Context(), nil)
	if _, err := f.ByID(id); !fault.Is(err, fault.NotFound) {
		t.Errorf("row of a vanished resource: %v", err)
	}
}

func TestSubscribersSeeChanges(t *testing.T) {
	t.Parallel()
	f := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- f.Follow(ctx) }()
	id := f.create(t, "x").Object.ID
	sub := f.Subscribe(id)
	defer sub.Close()
	await := func(what string, done func() bool) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for !done() {
			select {
			case <-sub.C():
			case <-deadline:
				t.Fatalf("never saw %s", what)
			}
		}
	}
	f.Changed(t.Context(), ready(id, "True", ""))
	f.sessions.set(id, true)
	f.Connected(t.Context(), id, "s1", "main-1")
	await("READY", func() bool { return f.phase(t, id) == sandbox.PhaseReady })
	f.sessions.set(id, false)
	f.Disconnected(t.Context(), id, "s1", "gone")
	await("PROVISIONING", func() bool { return f.phase(t, id) == sandbox.PhaseProvisioning })
	f.Deleted(t.Context(), id)
	await("the end", func() bool {
		_, err := f.ByID(id)
		return err != nil
	})
	cancel()
	if err := <-followed; err != nil {
		t.Error(err)
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	f := open(t)
	for i := range 5 {
		f.create(t, fmt.Sprint("box-", i))
	}
	for name, tc := range map[string]struct {
		q    sandbox.Query
		want int
	}{
		"default":        {sandbox.Query{}, 5},
		"limit":          {sandbox.Query{Limit: 2}, 2},
		"offset":         {sandbox.Query{Offset: 4}, 1},
		"past the end":   {sandbox.Query{Offset: 9}, 0},
		"clamped":        {sandbox.Query{Limit: 5000}, 5},
		"other tenant":   {sandbox.Query{Workspace: "other"}, 0},
		"all workspaces": {sandbox.Query{AllWorkspaces: true}, 5},
	} {
		list, err := f.List(t.Context(), tc.q)
		if err != nil || len(list) != tc.want {
			t.Errorf("%s: %d sandboxes, %v; want %d", name, len(list), err, tc.want)
		}
	}
	if _, err := f.List(t.Context(), sandbox.Query{AllWorkspaces: true, Workspace: "x"}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("all_workspaces with a workspace: %v", err)
	}
}

func TestUsersOfAProvider(t *testing.T) {
	t.Parallel()
	f := open(t)
	for _, name := range []string{"b", "a", "c"} {
		if _, err := f.Create(t.Context(), sandbox.CreateRequest{Name: name, Spec: &sandbox.Spec{Providers: []string{"p"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Delete(t.Context(), "", "c"); err != nil {
		t.Fatal(err)
	}
	got := f.UsersOf("", "p")
	if slices.Sort(got); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("UsersOf = %v, want a and b; c is being deleted", got)
	}
	if got := f.UsersOf("", "q"); len(got) != 0 {
		t.Errorf("UsersOf an unused provider = %v", got)
	}
}

func TestMainProcessExit(t *testing.T) {
	t.Parallel()
	f := open(t)
	id := f.create(t, "x").Object.ID
	f.Changed(t.Context(), ready(id, "True", ""))
	f.sessions.set(id, true) // instance "main-1"
	report := func(instance string, code int32) {
		t.Helper()
		if err := f.MainProcessExited(t.Context(), id, instance, code); err != nil {
			t.Fatal(err)
		}
	}
	report("main-0", 9)
	if f.phase(t, id) != sandbox.PhaseReady {
		t.Error("the report of an older instance counts")
	}
	report("main-1", 0)
	report("main-1", 7)
	sb, err := f.ByID(id)
	if err != nil || sb.Phase != sandbox.PhaseError || sb.Exited == nil || *sb.Exited != 0 || sb.Status[0].Reason != "MainProcessExited" {
		t.Errorf("after the first report: %+v, %v; want ERROR with exit code 0", sb, err)
	}
	if err := f.MainProcessExited(t.Context(), id, "", 0); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("no instance: %v", err)
	}
	if err := f.MainProcessExited(t.Context(), "gone", "main-1", 0); err != nil {
		t.Errorf("a sandbox that is gone: %v, want an acknowledgement", err)
	}
}
