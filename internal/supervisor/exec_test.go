package supervisor_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

func TestExec(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, true)
	s := start(t, g, map[string]string{
		"OPENSHELL_USER_ENVIRONMENT": `{"FROM_USER":"u","LAYER":"user"}`, "OPENSHELL_SANDBOX_TOKEN": "secret-token",
	})
	session := g.Session(t)
	if got := session.Metadata.Get(execchannel.MetadataKey); len(got) != 1 || got[0] != execchannel.Capability {
		t.Errorf("capabilities = %q", got)
	}
	if session.Hello.GetSandboxId() != sandboxID || session.Hello.GetInstanceId() == "" {
		t.Errorf("hello = %v", session.Hello)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "sub dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		start    *sallyportpb.ExecStart
		out, err string
		code     int32
		failed   string
	}{
		{name: "zero", start: &sallyportpb.ExecStart{Command: []string{"true"}}},
		{name: "one", start: &sallyportpb.ExecStart{Command: []string{"false"}}, code: 1},
		{name: "seven", start: shell("exit 7"), code: 7},
		{name: "255", start: shell("exit 255"), code: 255},
		{name: "signal", start: shell("kill -TERM $$"), code: 128 + 15},
		{name: "kill", start: shell("kill -KILL $$"), code: 128 + 9},
		{name: "both outputs", start: shell("echo out; echo err >&2; exit 3"), out: "out\n", err: "err\n", code: 3},
		{name: "arguments stay as they are", start: &sallyportpb.ExecStart{Command: []string{"printf", "%s|", "$(id)", "it's", "", "a\nb"}}, out: "$(id)|it's||a\nb|"},
		{name: "not found", start: &sallyportpb.ExecStart{Command: []string{"no-such-program"}}, err: "no-such-program: command not found\n", code: 127},
		{name: "builtin of the shell", start: &sallyportpb.ExecStart{Command: []string{"exit", "9"}}, code: 9},
		{name: "reserved word is no program", start: &sallyportpb.ExecStart{Command: []string{"if"}}, err: "if: command not found\n", code: 127},
		{name: "not executable", start: &sallyportpb.ExecStart{Command: []string{"/etc/passwd"}}, err: "/etc/passwd: permission denied\n", code: 126},
		{name: "no command", start: &sallyportpb.ExecStart{}, failed: "command is empty"},
		{name: "no such directory", start: &sallyportpb.ExecStart{Command: []string{"true"}, Workdir: "/no/such"}, failed: `working directory "/no/such": no such file or directory`},
		{name: "directory", start: &sallyportpb.ExecStart{Command: []string{"pwd"}, Workdir: filepath.Join(s.dir, "sub dir")}, out: filepath.Join(s.dir, "sub dir") + "\n"},
		{name: "own directory", start: &sallyportpb.ExecStart{Command: []string{"pwd"}}, out: s.dir + "\n"},
		{name: "layers", start: &sallyportpb.ExecStart{Command: []string{"sh", "-c", "echo $FROM_USER $LAYER $HOME $OPENSHELL_SANDBOX $SALLYPORT_SANDBOX_ID"}, Environment: map[string]string{"LAYER": "request", "SALLYPORT_SANDBOX_ID": "other"}}, out: "u request " + s.dir + " 1 " + sandboxID + "\n"},
		{name: "bad variable", start: &sallyportpb.ExecStart{Command: []string{"true"}, Environment: map[string]string{"A=B": "c"}}, failed: `invalid environment variable "A=B"`},
		{name: "variable names", start: shell("env | cut -d= -f1 | grep -E 'OPENSHELL|SALLYPORT' | sort | tr '\\n' ' '"), out: "OPENSHELL_SANDBOX SALLYPORT_SANDBOX_ID "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := openExec(t, session, tc.start)
			sendAll(t, r, []byte{byte(execchannel.StdinEOF)})
			res := collect(t, r)
			if res.failed != tc.failed {
				t.Fatalf("failed = %q, want %q", res.failed, tc.failed)
			}
			want := tc.code
			if tc.failed != "" {
				want = -1
			}
			if res.code != want || res.out.String() != tc.out || res.err.String() != tc.err {
				t.Errorf("code %d out %q err %q; want %d %q %q", res.code, res.out.String(), res.err.String(), want, tc.out, tc.err)
			}
		})
	}
}

func TestExecCarriesMuchBothWays(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, true)
	start(t, g, nil)
	session := g.Session(t)
	const size = 100 << 20
	r := openExec(t, session, &sallyportpb.ExecStart{Command: []string{"sh", "-c", "tee /dev/stderr | sha256sum >&2"}})
	want := sha256.New()
	go func() {
		chunk := []byte(randomText(t, 48<<10))[:60<<10]
		for sent := 0; sent < size; {
			n := min(len(chunk), size-sent)
			want.Write(chunk[:n])
			if err := r.Send(execchannel.Encode(execchannel.Stdin, chunk[:n])); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			sent += n
		}
		if err := r.Send([]byte{byte(execchannel.StdinEOF)}); err != nil {
			t.Errorf("send: %v", err)
		}
	}()
	res := collect(t, r)
	if res.code != 0 {
		t.Fatalf("code = %d", res.code)
	}
	if got := res.err.Len(); got != size+len(hex.EncodeToString(want.Sum(nil)))+len("  -\n") {
		t.Errorf("received %d bytes", got)
	}
	sum := sha256.Sum256(res.err.Bytes()[:size])
	if !bytes.Equal(sum[:], want.Sum(nil)) || !bytes.HasPrefix(res.err.Bytes()[size:], []byte(hex.EncodeToString(sum[:]))) {
		t.Error("checksums differ")
	}
}

func TestExecEnvironmentFollowsProvider(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	g.Set(func(g *gatewaytest.Gateway) {
		g.Environment = &openshellpb.GetSandboxProviderEnvironmentResponse{Environment: map[string]string{"KEY": "first", "LAYER": "provider"}, ProviderEnvRevision: 1}
		g.Config.ProviderEnvRevision = 1
	})
	start(t, g, map[string]string{"OPENSHELL_POLICY_POLL_INTERVAL_SECS": "1", "OPENSHELL_USER_ENVIRONMENT": `{"LAYER":"user"}`})
	session := g.Session(t)
	ask := func() string {
		return collect(t, openExec(t, session, &sallyportpb.ExecStart{Command: []string{"sh", "-c", "echo $KEY $LAYER"}})).out.String()
	}
	if got := ask(); got != "first provider\n" {
		t.Fatalf("environment = %q", got)
	}
	g.Set(func(g *gatewaytest.Gateway) {
		g.Environment = &openshellpb.GetSandboxProviderEnvironmentResponse{Environment: map[string]string{"KEY": "second"}, ProviderEnvRevision: 2}
		g.Config = &sandboxpb.GetSandboxConfigResponse{ProviderEnvRevision: 2, ConfigRevision: 2}
	})
	eventually(t, "new value", func() bool { return ask() == "second user\n" })
}

func TestExecBackgroundChildDoesNotHoldTheChannel(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	session := g.Session(t)
	began := time.Now()
	res := collect(t, openExec(t, session, shell("sleep 300 & echo $! > pid; echo done; exit 4")))
	if res.code != 4 || res.out.String() != "done\n" {
		t.Errorf("code %d out %q", res.code, res.out.String())
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	pid := readPID(t, filepath.Join(s.dir, "pid"))
	if syscall.Kill(pid, 0) != nil {
		t.Error("background child is gone")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	// A background child that goes on writing is heard while it does.
	res = collect(t, openExec(t, session, shell("(for i in 1 2 3 4 5 6; do sleep 0.2; echo $i; done) & exit 0")))
	if got := strings.Fields(res.out.String()); len(got) != 6 {
		t.Errorf("late output = %q", got)
	}
}

func readPID(tb testing.TB, file string) int {
	tb.Helper()
	var pid int
	eventually(tb, "pid file", func() bool {
		raw, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(raw, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		return err == nil
	})
	return pid
}

func gone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(raw), ") Z ")
}

func TestExecCancelEndsTheGroup(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	session := g.Session(t)
	for name, end := range map[string]func(r *gatewaytest.Relay){
		"cancel": func(r *gatewaytest.Relay) { sendAll(t, r, []byte{byte(execchannel.Cancel)}) },
		"close":  func(r *gatewaytest.Relay) { r.Close() },
		"withdraw": func(r *gatewaytest.Relay) {
			if err := session.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_RelayClose{RelayClose: &openshellpb.RelayClose{ChannelId: r.ID}}}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(s.dir, name)
			r := openExec(t, session, shell("trap '' TERM; sleep 300 & echo $! > "+name+".child; echo $$ > "+name+"; while :; do sleep 0.1; done"))
			leader, child := readPID(t, file), readPID(t, file+".child")
			end(r)
			eventually(t, "group ends", func() bool { return gone(leader) && gone(child) })
			if name == "cancel" {
				if res := collect(t, r); res.code != 128+9 {
					t.Errorf("code = %d", res.code)
				}
			}
			r.Close()
		})
	}
}

func TestExecStuckInputIsEndedWithTheRelay(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	session := g.Session(t)
	r := openExec(t, session, shell("echo $$ > stuck; exec sleep 300"))
	pid := readPID(t, filepath.Join(s.dir, "stuck"))
	chunk := make([]byte, execchannel.MaxPayload)
	// More than the pipe takes and less than the windows: the frames wait in front of the end of the relay.
	for range 8 {
		sendAll(t, r, execchannel.Encode(execchannel.Stdin, chunk))
	}
	r.Close()
	eventually(t, "command ends", func() bool { return gone(pid) })
}

func TestExecTerminal(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	session := g.Session(t)
	r := openExec(t, session, &sallyportpb.ExecStart{
		Command: []string{"sh", "-c", "stty size; read line; stty size; echo got $line; cat; test -t 0 && exit 9"}, Tty: true, Cols: 120, Rows: 40,
	})
	sendAll(t, r, execchannel.EncodeResize(99, 33), execchannel.Encode(execchannel.Stdin, []byte("hello\n")), []byte{byte(execchannel.StdinEOF)})
	res := collect(t, r)
	out := res.out.String()
	if res.code != 9 || !strings.Contains(out, "33 99") || !strings.Contains(out, "got hello") {
		t.Errorf("code %d out %q", res.code, out)
	}
	r = openExec(t, session, &sallyportpb.ExecStart{Command: []string{"stty", "size"}, Tty: true})
	if res := collect(t, r); res.out.String() != "24 80\r\n" {
		t.Errorf("default size = %q", res.out.String())
	}
}

func TestExecProtocol(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	session := g.Session(t)
	open := func() *gatewaytest.Relay {
		r, err := session.Open(&openshellpb.RelayOpen{ServiceId: execchannel.ServiceID})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	sendAll(t, r, []byte{byte(execchannel.Stdin), 1})
	if res := collect(t, r); !strings.Contains(res.failed, "must be start") {
		t.Errorf("failed = %q", res.failed)
	}
	r = open()
	sendAll(t, r, []byte{byte(execchannel.Start), 0xff})
	if res := collect(t, r); !strings.Contains(res.failed, "malformed") {
		t.Errorf("failed = %q", res.failed)
	}
	// A frame over the limit ends the command.
	r = openExec(t, session, shell("sleep 300"))
	sendAll(t, r, append([]byte{byte(execchannel.Stdin)}, make([]byte, execchannel.MaxPayload+1)...))
	if res := collect(t, r); res.code != 128+15 {
		t.Errorf("code = %d", res.code)
	}
}
