//go:build linux

package kube_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/test/keycloak"
)

// terminal is where somebody runs the command line client's program, with a configuration of its own.
type terminal struct {
	program string
	realm   keycloak.Realm
	env     []string
}

func newTerminal(t *testing.T, r keycloak.Realm) *terminal {
	t.Helper()
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "XDG_CONFIG_HOME=" + t.TempDir(),
		"OPENSHELL_SYSTEM_GATEWAY_DIR=/nonexistent", "OPENSHELL_NO_BROWSER=1",
		// The client checks the provider's certificate with the system's authorities.
		"SSL_CERT_FILE=" + r.CA,
	}
	return &terminal{program: program(t, "sallyport"), realm: r, env: env}
}

// ending is how a command line ended.
type ending struct {
	code        int
	out, errOut string
}

// run runs one command line with its standard input. Once the client shows a page of the provider, user, unless empty, signs
// in there.
func (m *terminal) run(t *testing.T, in io.Reader, user string, args ...string) ending {
	t.Helper()
	// It runs in clean-ups, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.program, args...)
	read, write := io.Pipe()
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = m.env, in, &stdout, write
	cmd.WaitDelay = time.Second
	var reading sync.WaitGroup
	reading.Go(func() {
		shown := false
		for lines := bufio.NewScanner(io.TeeReader(read, &stderr)); lines.Scan(); {
			if page := strings.TrimSpace(lines.Text()); strings.HasPrefix(page, m.realm.Issuer()) && !shown && user != "" {
				shown = true
				if err := m.realm.FillIn(ctx, page, user); err != nil {
					t.Errorf("the login page: %v", err)
					cancel()
				}
			}
		}
	})
	err := cmd.Run()
	write.Close()
	reading.Wait()
	e := ending{out: stdout.String(), errOut: stderr.String()}
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		e.code = failed.ExitCode()
	case err != nil:
		t.Fatalf("sallyport %s: %v", strings.Join(args, " "), err)
	}
	return e
}

// must runs a command line that has to succeed, and returns what it printed.
func (m *terminal) must(t *testing.T, args ...string) string {
	t.Helper()
	e := m.run(t, nil, "", args...)
	if e.code != 0 {
		t.Fatalf("sallyport %s: exit code %d\n%s%s", strings.Join(args, " "), e.code, e.out, e.errOut)
	}
	return e.out
}

// shown is what `sandbox get` says about a sandbox, as text and as far as it is decoded.
type shown struct {
	text  string
	phase string
}

// get asks for a sandbox. Its phase is empty if there is none.
func (m *terminal) get(t *testing.T, name string) shown {
	t.Helper()
	var s shown
	table := m.run(t, nil, "", "sandbox", "get", name)
	s.text = table.out + table.errOut
	e := m.run(t, nil, "", "sandbox", "get", name, "-o", "json")
	var decoded struct {
		Phase string `json:"phase"`
	}
	if e.code == 0 {
		if err := json.Unmarshal([]byte(e.out), &decoded); err != nil {
			t.Fatalf("sandbox get -o json: %v in %s", err, e.out)
		}
	}
	s.phase = decoded.Phase
	return s
}
