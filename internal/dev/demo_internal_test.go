package dev

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func results(t *testing.T, out string) []result {
	t.Helper()
	var all []result
	for line := range strings.Lines(out) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// TestDemoAgainstTheRealSystem builds the programs and walks through the whole scenario; about 5 s from a warm
// build cache.
func TestDemoAgainstTheRealSystem(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-o", dir, "sallyport.dev/sallyport/cmd/sallyport-gateway",
		"sallyport.dev/sallyport/cmd/sallyport-supervisor", "sallyport.dev/sallyport/cmd/sallyport-driver-process",
		"sallyport.dev/sallyport/cmd/sallyport-driver-oauth2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s := newSaid()
	var out bytes.Buffer
	conf := config{stateDir: filepath.Join(dir, "state"), binaries: dir, getenv: noEnv, say: s.say}
	if err := runDemo(t.Context(), conf, &reporter{out: &out, json: true}); err != nil {
		t.Errorf("%v\n%s\ngateway's log:\n%s\ndriver's log:\n%s", err, out.String(),
			tail(filepath.Join(conf.stateDir, "logs", "gateway.log"), 20), tail(filepath.Join(conf.stateDir, "logs", "driver-process.log"), 20))
	}
	if got := results(t, out.String()); len(got) != 15 {
		t.Errorf("%d steps:\n%s", len(got), out.String())
	}
	if len(s.lines) != 0 {
		t.Errorf("said %q", s.lines)
	}
	for _, name := range []string{"gateway", "driver-process", "driver-oauth2", "identity"} {
		log, err := os.ReadFile(filepath.Join(conf.stateDir, "logs", name+".log"))
		if err != nil {
			t.Error(err)
		}
		// Every JWT starts like this.
		if strings.Contains(string(log), "eyJ") {
			t.Errorf("a token reached the log of %s", name)
		}
	}
}

// TestDemoThatFails has a gateway that is ready but does not answer calls.
func TestDemoThatFails(t *testing.T) {
	t.Parallel()
	conf, _ := standInSystem(t)
	var out bytes.Buffer
	if err := runDemo(t.Context(), conf, &reporter{out: &out, json: true}); !errors.Is(err, ErrDemoFailed) {
		t.Errorf("got %v", err)
	}
	got := results(t, out.String())
	if len(got) != 5 || !got[1].OK || got[2].OK || !got[3].OK || !got[4].OK {
		t.Errorf("steps:\n%s", out.String())
	}
}
