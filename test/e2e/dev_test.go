//go:build linux

package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// development is `sallyport dev` with the client that it registers itself with, in a home of its own.
type development struct {
	t         *testing.T
	bin, home string
	// markers are the settings that mark the processes of the system and of its sandboxes.
	markers []string
	cmd     *exec.Cmd
	errOut  bytes.Buffer
}

func newDevelopment(t *testing.T) *development {
	t.Helper()
	home, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	d := &development{t: t, bin: binDir(t), home: home, markers: []string{runMarker + rand.Text()}}
	t.Cleanup(func() {
		if pids := pidsWith(t, d.markers...); len(pids) > 0 {
			t.Errorf("processes left behind: %q", describe(pids))
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return d
}

func (d *development) environment() []string {
	return append(cleanEnv(), "HOME="+d.home, "XDG_CONFIG_HOME="+d.home+"/config", "XDG_STATE_HOME="+d.home+"/state", "XDG_RUNTIME_DIR=",
		"OPENSHELL_NO_BROWSER=1", d.markers[0])
}

// start runs the development system and returns when it says that all is up.
func (d *development) start() {
	d.t.Helper()
	d.cmd = exec.Command(filepath.Join(d.bin, "sallyport"), "dev", "--state-dir", d.home+"/dev", "-o", "json") // the test ends it
	d.cmd.Env, d.cmd.Stderr = d.environment(), &d.errOut
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var endpoints struct {
		Gateway string `json:"gateway"`
	}
	if err = errors.Join(err, json.Unmarshal(line, &endpoints)); err != nil || endpoints.Gateway == "" {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.t.Fatalf("dev said %q, error %v, stderr %s", line, err, d.errOut.String())
	}
}

// end sends a signal and waits for all of the system to go.
func (d *development) end(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	err := d.cmd.Wait()
	if sig != syscall.SIGKILL && err != nil {
		d.t.Errorf("dev ended with %v, want exit status 0; stderr %s", err, d.errOut.String())
	}
	eventually(d.t, "all processes of dev gone", func() error {
		if pids := pidsWith(d.t, d.markers...); len(pids) > 0 {
			return fmt.Errorf("%q", describe(pids))
		}
		return nil
	})
}

// cli runs the client and returns its exit code and output.
func (d *development) cli(stdin string, args ...string) (int, string, string) {
	d.t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(d.t.Context(), filepath.Join(d.bin, "sallyport"), args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = d.environment(), strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		d.t.Fatalf("sallyport %v: %v", args, exit)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// must runs the client, which has to succeed.
func (d *development) must(args ...string) string {
	d.t.Helper()
	code, out, errOut := d.cli("", args...)
	if code != 0 {
		d.t.Fatalf("sallyport %s: exit code %d\n%s", strings.Join(args, " "), code, errOut)
	}
	return out
}

var (
	address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/realms/\S+`)
	action  = regexp.MustCompile(`action="([^"]+)"`)
)

// login signs in as a person does: the test takes the place of the browser.
func (d *development) login(user, password string) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), filepath.Join(d.bin, "sallyport"), "gateway", "login", "dev")
	cmd.Env = d.environment()
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = write.Close()
		done <- err
	}()
	var said strings.Builder
	lines := bufio.NewScanner(read)
	signedIn := false
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if page := address.FindString(lines.Text()); page != "" && !signedIn {
			signedIn = true
			d.fillIn(page, user, password)
		}
	}
	if err := <-done; err != nil || !signedIn {
		d.t.Fatalf("login: %v\n%s", err, said.String())
	}
}

// fillIn opens the login page, sends its form and follows the way back to the client.
func (d *development) fillIn(page, user, password string) {
	d.t.Helper()
	resp, err := plainHTTP.Get(page) // the client has a timeout
	if err != nil {
		d.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	form := action.FindSubmatch(body)
	if err != nil || form == nil {
		d.t.Fatalf("login page has no form: %v\n%s", err, body)
	}
	target, err := resp.Request.URL.Parse(string(form[1]))
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err = plainHTTP.PostForm(target.String(), url.Values{"username": {user}, "password": {password}}) // as above
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		d.t.Fatalf("after the login page came HTTP %d", resp.StatusCode)
	}
}

// TestDevelopmentSession is the first session of the README with the real client, and what a crash does to it.
func TestDevelopmentSession(t *testing.T) {
	t.Parallel()
	d := newDevelopment(t)
	d.start()
	d.login("admin@test", "admin")
	if out := d.must("whoami"); !strings.Contains(out, "admin@test") {
		t.Errorf("whoami printed %s", out)
	}
	d.must("provider", "create", "--name", "demo", "--type", "generic", "--driver-credential", "TOKEN=demo-service")
	d.must("sandbox", "create", "--name", "hello", "--provider", "demo", "--no-tty", "--", "true")
	eventually(t, "the credential in the sandbox", func() error {
		if out := d.must("sandbox", "exec", "-n", "hello", "--", "sh", "-c", "echo ${#TOKEN}"); len(out) < len("500\n") {
			return fmt.Errorf("length %s", out)
		}
		return nil
	})
	code, out, errOut := d.cli("from standard input", "sandbox", "exec", "-n", "hello", "--", "sh", "-c", "cat; echo it failed >&2; exit 7")
	if code != 7 || out != "from standard input" || !strings.Contains(errOut, "it failed") {
		t.Errorf("exec ended with %d, printed %q and %q", code, out, errOut)
	}
	d.must("sandbox", "exec", "-n", "hello", "--", "sh", "-c", "echo kept >file")
	d.wantListed("hello")

	d.killProgram("sallyport-gateway")
	d.wantListed("hello")
	d.killProgram("sallyport-driver-process")
	d.killProgram("sallyport-driver-oauth2")
	d.wantListed("hello")
	// Another sandbox shows that the drivers are back. Were they not, nobody could end sandboxes with the system.
	eventually(t, "sandbox created after the drivers' crash", func() error {
		if code, _, errOut := d.cli("", "sandbox", "create", "--name", "second", "--provider", "demo", "--no-tty", "--", "true"); code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errOut)
		}
		return nil
	})
	d.wantListed("second")

	d.end(syscall.SIGKILL)
	d.start()
	d.wantListed("hello")
	eventually(t, "exec after the crash", func() error {
		code, out, errOut := d.cli("", "sandbox", "exec", "-n", "hello", "--", "cat", "file")
		if code != 0 || out != "kept\n" {
			return fmt.Errorf("exit code %d, output %q, %s", code, out, errOut)
		}
		return nil
	})
	d.must("sandbox", "delete", "hello", "second")
	// A provider cannot go before the last sandbox that uses it has gone.
	eventually(t, "provider deleted", func() error {
		if code, _, errOut := d.cli("", "provider", "delete", "demo"); code != 0 {
			return errors.New(errOut)
		}
		return nil
	})
	d.end(syscall.SIGINT)
	left, err := filepath.Glob(d.home + "/dev/run/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// killProgram is kill -9 of one of the system's programs, which dev starts again.
func (d *development) killProgram(name string) {
	d.t.Helper()
	killed := 0
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.t.Fatal(err)
	}
	// By the command line, which names this system's folder: environment and program of the gateway are closed to other
	// processes of the same user.
	for _, file := range lines {
		line, err := os.ReadFile(file)
		program, rest, _ := strings.Cut(string(line), "\x00")
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && filepath.Base(program) == name && strings.Contains(rest, d.home) {
			killed++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	if killed != 1 {
		d.t.Errorf("%d processes of %s, want 1", killed, name)
	}
}

// wantListed waits until the client lists the sandbox as ready.
func (d *development) wantListed(name string) {
	d.t.Helper()
	eventually(d.t, "sandbox listed as ready", func() error {
		code, out, errOut := d.cli("", "sandbox", "list", "-o", "json")
		var list []struct{ ID, Name, Phase string }
		if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil {
			return fmt.Errorf("exit code %d, error %w: %s", code, err, errOut)
		}
		for _, sb := range list {
			if sb.Name == name && strings.EqualFold(sb.Phase, "ready") {
				if mark := sandboxMarker + sb.ID; !slices.Contains(d.markers, mark) {
					d.markers = append(d.markers, mark)
				}
				return nil
			}
		}
		return fmt.Errorf("list is %s", out)
	})
}
