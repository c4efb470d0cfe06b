//go:build linux

package driverprocess_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// stray gives a sandbox a hidden process and returns a function that counts it.
func stray(t *testing.T, sb *computepb.DriverSandbox) (count func() int) {
	t.Helper()
	mark := "86400." + strconv.FormatUint(rand.Uint64(), 10)
	sb.GetSpec().GetEnvironment()["FAKE_STRAY"] = mark
	return func() int {
		n := 0
		entries, err := os.ReadDir("/proc")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			if err == nil && string(line) == "sleep\x00"+mark+"\x00" {
				n++
			}
		}
		return n
	}
}

func TestNoProcessOutlivesItsSandbox(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		f := newFixture(t, opts...)
		sb := computetest.Sandbox()
		count := stray(t, sb)
		f.create(sb)
		f.report(sb)
		eventually(t, "the stray process", func() bool { return count() == 1 })
		if _, err := f.client().StopSandbox(f.context(), &computepb.StopSandboxRequest{SandboxId: sb.GetId()}); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 0 {
			t.Errorf("%d stray processes after stop", n)
		}
		if _, err := f.client().StartSandbox(f.context(), &computepb.StartSandboxRequest{SandboxId: sb.GetId()}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the stray process", func() bool { return count() == 1 })
		f.restart(t)
		f.await(sb, "ready after restart", isReady)
		if n := count(); n != 1 {
			t.Errorf("%d stray processes after the driver's restart, want 1", n)
		}
		f.delete(sb)
		if n := count(); n != 0 {
			t.Errorf("%d stray processes after delete", n)
		}
	})
}

// The first process of a sandbox is the net that is always there; without namespaces the others must do.
func TestFirstProcessKilled(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		f := newFixture(t, opts...)
		sb := computetest.Sandbox()
		f.create(sb)
		first := f.await(sb, "ready", isReady).GetStatus().GetInstanceId()
		pid, err := strconv.Atoi(strings.TrimPrefix(first, "process-"))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		f.await(sb, "ready again", func(sb *computepb.DriverSandbox) bool {
			return isReady(sb) && sb.GetStatus().GetInstanceId() != first
		})
		f.delete(sb)
	})
}

// supervisors returns the host's pids of the fixture's supervisors.
func (f *fixture) supervisors() []int {
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.HasSuffix(strings.TrimRight(string(line), "\x00"), "sallyport-supervisor") {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && strings.Contains(string(env), "FIXTURE="+f.state) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestSupervisorKilledIsStartedAgain(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		f := newFixture(t, opts...)
		sb := computetest.Sandbox()
		sb.GetSpec().GetEnvironment()["FIXTURE"] = f.state
		count := stray(t, sb)
		f.create(sb)
		f.report(sb)
		eventually(t, "the stray process", func() bool { return count() == 1 })
		before := f.supervisors()
		if len(before) != 1 {
			t.Fatalf("supervisors: %v, want one", before)
		}
		if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another supervisor", func() bool {
			now := f.supervisors()
			return len(now) == 1 && now[0] != before[0]
		})
		f.await(sb, "ready again", isReady)
		eventually(t, "one stray process", func() bool { return count() == 1 })

		// The same while no driver is there to see it.
		f.kill()
		before = f.supervisors()
		if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "no process", func() bool { return len(f.supervisors())+count() == 0 })
		f.start()
		f.redial()
		f.await(sb, "ready again", isReady)
		f.delete(sb)
	})
}

func TestSupervisorThatEndsIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sb := computetest.Sandbox()
	sb.GetSpec().GetEnvironment()["FAKE_EXIT"] = "0"
	f.create(sb)
	got := f.await(sb, "the end", func(sb *computepb.DriverSandbox) bool { return find(sb, "Ready").GetReason() == "SupervisorExited" })
	if msg := find(got, "Ready").GetMessage(); !strings.Contains(msg, "exit code 0") {
		t.Errorf("message %q does not tell the exit code", msg)
	}
}

func TestSupervisorThatKeepsCrashing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sb := computetest.Sandbox()
	sb.GetSpec().GetEnvironment()["FAKE_EXIT"] = "3"
	f.create(sb)
	got := f.await(sb, "giving up", func(sb *computepb.DriverSandbox) bool { return find(sb, "Ready").GetReason() == "SupervisorExited" })
	if msg := find(got, "Ready").GetMessage(); !strings.Contains(msg, "exit code 3") || !strings.Contains(msg, "after 5 restarts") {
		t.Errorf("message %q does not tell the exit code and the restarts", msg)
	}
}

func TestWhatASupervisorGets(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, []byte("authority"), 0o644); err != nil {
			t.Fatal(err)
		}
		// The unprivileged driver must be able to read it.
		for dir := filepath.Dir(ca); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f := newFixture(t, append(opts, withArgs("--gateway-ca", ca))...)
		sb := computetest.Sandbox()
		spec := sb.GetSpec()
		spec.LogLevel, spec.SandboxToken = "debug", "secret-token"
		spec.Command, spec.Tty = []string{"/bin/sh", "-c", "true"}, true
		spec.Template.Environment = map[string]string{"A": "template", "B": "template"}
		spec.Environment = map[string]string{"B": "spec", "OPENSHELL_ENDPOINT": "http://elsewhere", "OPENSHELL_SANDBOX_TOKEN": "t", "FAKE_LOOK": f.state}
		f.create(sb)
		r := f.report(sb)
		env := make(map[string]string)
		for _, e := range r.Env {
			k, v, _ := strings.Cut(e, "=")
			env[k] = v
		}
		for k, want := range map[string]string{
			"A": "template", "B": "spec", "OPENSHELL_ENDPOINT": "https://127.0.0.1:8443", "OPENSHELL_SANDBOX_TOKEN": "t",
			"OPENSHELL_SANDBOX_ID": sb.GetId(), "OPENSHELL_SANDBOX": sb.GetName(), "OPENSHELL_LOG_LEVEL": "debug",
			"OPENSHELL_MAIN_PROCESS_SPEC": `{"command":["/bin/sh","-c","true"],"tty":true,"version":1}`,
			"HOME":                        r.Dir, "SALLYPORT_WORKDIR": r.Dir,
			"OPENSHELL_USER_ENVIRONMENT": fmt.Sprintf(`{"A":"template","B":"spec","FAKE_LOOK":%q}`, f.state),
		} {
			if env[k] != want {
				t.Errorf("%s is %q, want %q", k, env[k], want)
			}
		}
		if env["LEAK"] != "" {
			t.Error("the driver's own environment leaks")
		}
		if r.Token != "secret-token" {
			t.Errorf("token file holds %q", r.Token)
		}
		got := f.await(sb, "ready", isReady)
		cond := find(got, "Isolation")
		t.Log(cond.GetStatus(), cond.GetMessage())
		if !strings.Contains(cond.GetMessage(), "network=host") {
			t.Errorf("isolation %q does not tell the network", cond.GetMessage())
		}
		if strings.Contains(t.Name(), "none") {
			if cond.GetStatus() != "False" || cond.GetReason() != "IsolationDegraded" {
				t.Errorf("isolation is %v", cond)
			}
			return
		}
		if cond.GetStatus() != "True" {
			t.Skipf("namespaces do not work here: %s", cond.GetMessage())
		}
		if r.PID > 10 || r.UID != 0 || r.Hostname != sb.GetName() || r.Dir != "/home/sandbox" {
			t.Errorf("no view of its own: %+v", r)
		}
		if len(r.Roots["/tmp"]) != 0 || !slices.Equal(r.Roots["/home"], []string{"sandbox"}) {
			t.Errorf("the host shows through: %v", r.Roots)
		}
		if look := r.Roots[f.state]; len(look) != 1 || !strings.HasPrefix(look[0], "error") {
			t.Errorf("the driver's state is visible: %v", look)
		}
	})
}

func TestLongStateDirectory(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"none", "auto"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, withArgs("--isolation", isolation), func(f *fixture) {
				f.state += strings.Repeat("x", 100)
			})
			sb := computetest.Sandbox()
			f.create(sb)
			f.report(sb) // which listens on the socket path it was given
		})
	}
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sb := computetest.Sandbox()
	sb.GetSpec().GetEnvironment()["FAKE_LOG_KIB"] = "3000"
	f.create(sb)
	f.report(sb)
	total := int64(0)
	for _, name := range []string{"supervisor.log", "supervisor.log.1"} {
		info, err := os.Stat(filepath.Join(f.state, "sandboxes", sb.GetId(), name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 1<<20 {
		t.Errorf("log has %d bytes, want at most 1 MiB", total)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	change := func(edit func(*computepb.DriverSandbox)) *computepb.DriverSandbox {
		sb := computetest.Sandbox()
		edit(sb)
		return sb
	}
	for name, c := range map[string]struct {
		sb   *computepb.DriverSandbox
		want codes.Code
	}{
		"no sandbox": {nil, codes.InvalidArgument},
		"no spec":    {change(func(sb *computepb.DriverSandbox) { sb.Spec = nil }), codes.InvalidArgument},
		"no id":      {change(func(sb *computepb.DriverSandbox) { sb.Id = "" }), codes.InvalidArgument},
		"path as id": {change(func(sb *computepb.DriverSandbox) { sb.Id = "../../etc" }), codes.InvalidArgument},
		"dot as id":  {change(func(sb *computepb.DriverSandbox) { sb.Id = ".." }), codes.InvalidArgument},
		"id of 65":   {change(func(sb *computepb.DriverSandbox) { sb.Id = strings.Repeat("a", 65) }), codes.InvalidArgument},
		"id of 64":   {change(func(sb *computepb.DriverSandbox) { sb.Id = strings.Repeat("a", 64) }), codes.OK},
		"no name":    {change(func(sb *computepb.DriverSandbox) { sb.Name = "" }), codes.InvalidArgument},
		"gpu": {change(func(sb *computepb.DriverSandbox) {
			sb.Spec.ResourceRequirements = &computepb.ResourceRequirements{Gpu: &computepb.GpuResourceRequirements{}}
		}), codes.FailedPrecondition},
		"gpu device":   {change(func(sb *computepb.DriverSandbox) { sb.Spec.GpuDevice = "0" }), codes.FailedPrecondition},
		"image":        {change(func(sb *computepb.DriverSandbox) { sb.Spec.Template.Image = "python:3" }), codes.FailedPrecondition},
		"host image":   {change(func(sb *computepb.DriverSandbox) { sb.Spec.Template.Image = "host" }), codes.OK},
		"bad variable": {change(func(sb *computepb.DriverSandbox) { sb.Spec.Environment["A=B"] = "" }), codes.FailedPrecondition},
		"NUL in value": {change(func(sb *computepb.DriverSandbox) { sb.Spec.Environment["A"] = "\x00" }), codes.FailedPrecondition},
		"bad quantity": {change(func(sb *computepb.DriverSandbox) {
			sb.Spec.Template.Resources = &computepb.DriverResourceRequirements{MemoryLimit: "much"}
		}), codes.FailedPrecondition},
		"runtime class": {change(func(sb *computepb.DriverSandbox) {
			sb.Spec.Template.PlatformConfig = &structpb.Struct{Fields: map[string]*structpb.Value{"runtime_class_name": structpb.NewStringValue("kata")}}
		}), codes.FailedPrecondition},
	} {
		_, err := f.client().ValidateSandboxCreate(f.context(), &computepb.ValidateSandboxCreateRequest{Sandbox: c.sb})
		if status.Code(err) != c.want {
			t.Errorf("%s: validate answers %v, want %s", name, err, c.want)
		}
		if c.want == codes.OK {
			continue
		}
		if _, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: c.sb}); status.Code(err) != c.want {
			t.Errorf("%s: create answers %v, want %s", name, err, c.want)
		}
	}
	if _, err := f.client().DeleteSandbox(f.context(), &computepb.DeleteSandboxRequest{SandboxId: "../x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("delete of a path: %v", err)
	}
	sb := computetest.Sandbox()
	f.create(sb)
	same := proto.CloneOf(sb)
	same.Id = computetest.Sandbox().GetId()
	if _, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: same}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("same name: %v, want AlreadyExists", err)
	}
	same.Workspace = "other"
	f.create(same)
}

func TestIsolationRequired(t *testing.T) {
	t.Parallel()
	f := newFixture(t, unprivileged(), withArgs("--isolation", "required"))
	sb := computetest.Sandbox()
	sb.Spec.Template.Resources = &computepb.DriverResourceRequirements{MemoryLimit: "64Mi"}
	_, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sb})
	if status.Code(err) == codes.OK {
		t.Skip("this user may make control groups")
	}
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "memory") && !strings.Contains(err.Error(), "isolation") {
		t.Errorf("got %v, want FailedPrecondition that names what is missing", err)
	}
	none := newFixture(t, withArgs("--isolation", "none"))
	sb.Spec.Template.Resources = nil
	sb.Spec.Template.PlatformConfig = &structpb.Struct{Fields: map[string]*structpb.Value{"host_users": structpb.NewBoolValue(false)}}
	_, err = none.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sb})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a user namespace that is not there: got %v, want FailedPrecondition", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("control groups need root here")
	}
	f := newFixture(t)
	sb := computetest.Sandbox()
	sb.Spec.Template.Resources = &computepb.DriverResourceRequirements{CpuLimit: "500m", MemoryLimit: "256Mi"}
	f.create(sb)
	got := f.await(sb, "ready", isReady)
	msg := find(got, "Isolation").GetMessage()
	t.Log(msg)
	for _, want := range []string{"cpu=limited", "memory=limited", "pids=limited"} {
		if !strings.Contains(msg, want) {
			t.Errorf("no %s in %q", want, msg)
		}
	}
	pid := strings.TrimPrefix(got.GetStatus().GetInstanceId(), "process-")
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil || !strings.Contains(string(b), sb.GetId()) {
		t.Errorf("not in a group of its own: %s %v", b, err)
	}
}

// TestDriverKilledAtAnyMoment kills the driver during creates and deletes and checks that its successor knows
// everything that is there.
func TestDriverKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		f := newFixture(t, opts...)
		acknowledged := make(map[string]*computepb.DriverSandbox)
		gone := make(map[string]bool)
		var mu sync.Mutex
		for round := range 8 {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			client := f.client()
			var work sync.WaitGroup
			for range 3 {
				work.Go(func() {
					for ctx.Err() == nil {
						sb := computetest.Sandbox()
						sb.Spec.Environment["FIXTURE"] = f.state
						if _, err := client.CreateSandbox(ctx, &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
							return
						}
						mu.Lock()
						acknowledged[sb.GetId()] = sb
						mu.Unlock()
						if rand.IntN(2) == 0 {
							continue
						}
						mu.Lock()
						delete(acknowledged, sb.GetId())
						mu.Unlock()
						if _, err := client.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()}); err != nil {
							return
						}
						mu.Lock()
						gone[sb.GetId()] = true
						mu.Unlock()
					}
				})
			}
			timer := time.NewTimer(time.Duration(5+rand.IntN(80)) * time.Millisecond)
			<-timer.C
			f.kill()
			cancel()
			work.Wait()
			f.start()
			f.redial()
			f.consistent(round, acknowledged, gone)
		}
	})
}

// consistent checks what a driver knows after its start, then deletes all of it.
func (f *fixture) consistent(round int, acknowledged map[string]*computepb.DriverSandbox, gone map[string]bool) {
	f.t.Helper()
	resp, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
	if err != nil {
		f.t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, sb := range resp.GetSandboxes() {
		listed[sb.GetId()] = true
		if gone[sb.GetId()] {
			f.t.Errorf("round %d: %s was deleted and is back", round, sb.GetId())
		}
	}
	for id, sb := range acknowledged {
		if !listed[id] {
			f.t.Errorf("round %d: %s was created and is lost", round, id)
			continue
		}
		f.await(sb, "ready", isReady)
	}
	for id := range listed {
		f.delete(&computepb.DriverSandbox{Id: id})
		delete(acknowledged, id)
	}
	if left := f.supervisors(); len(left) > 0 {
		f.t.Errorf("round %d: processes left: %v", round, left)
	}
}

func TestShutdownSandboxes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, withArgs("--shutdown-sandboxes"))
	sb := computetest.Sandbox()
	sb.Spec.Environment["FIXTURE"] = f.state
	f.create(sb)
	f.report(sb)
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if left := f.supervisors(); len(left) > 0 {
		t.Errorf("supervisors left: %v", left)
	}
	f.start()
	f.redial()
	f.await(sb, "ready again", isReady)
}

func BenchmarkCreate(b *testing.B) {
	for _, isolation := range []string{"auto", "none"} {
		b.Run(isolation, func(b *testing.B) { benchmarkCreate(b, withArgs("--isolation", isolation)) })
	}
}

func benchmarkCreate(b *testing.B, opts ...option) {
	f := newFixture(b, opts...)
	client := f.client()
	b.ReportAllocs()
	for b.Loop() {
		sb := computetest.Sandbox()
		if _, err := client.CreateSandbox(b.Context(), &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := client.DeleteSandbox(b.Context(), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
