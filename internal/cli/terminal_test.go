package cli_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// onTerminal runs the command line in a process of its own with a terminal as all three streams and returns
// what the terminal showed and the exit code.
func onTerminal(t *testing.T, input string, vars []string, args ...string) (string, int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Args[0] = "sallyport"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TERM=xterm"}, vars...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 100, Rows: 30})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if _, err := io.WriteString(terminal, input); err != nil {
		t.Fatal(err)
	}
	// The read of a terminal whose other side is closed ends with an error.
	shown, _ := io.ReadAll(terminal)
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(shown), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(shown), 0
}

func TestOnATerminal(t *testing.T) {
	t.Parallel()
	_, at := startGateway(t, nil)
	vars := []string{"XDG_CONFIG_HOME=" + t.TempDir(), "OPENSHELL_GATEWAY_ENDPOINT=" + at.plain}

	shown, code := onTerminal(t, "", vars, "sandbox", "create", "--name", "live")
	if code != 0 || !strings.Contains(shown, "\x1b[K\u2713 Sandbox ready\r\n") || !strings.Contains(shown, "Created sandbox: live\r\n") {
		t.Errorf("live progress: code %d\n%q", code, shown)
	}
	shown, code = onTerminal(t, "", append(vars, "NO_COLOR=1"), "sandbox", "create", "--name", "plain")
	if code != 0 || strings.Contains(shown, "\x1b") || !strings.Contains(shown, "s] Sandbox ready\r\n") {
		t.Errorf("without colour: code %d\n%q", code, shown)
	}
	shown, code = onTerminal(t, "", vars, "sandbox", "list")
	if code != 0 || !strings.Contains(shown, "\x1b[1mNAME") {
		t.Errorf("list: code %d\n%q", code, shown)
	}
	shown, code = onTerminal(t, "hello\r", vars, "sandbox", "exec", "-n", "live", "--", "shell")
	if code != 5 || !strings.Contains(shown, `tty=true cols>0=true read "hello"`) {
		t.Errorf("shell: code %d\n%q", code, shown)
	}
	shown, code = onTerminal(t, "", vars, "sandbox", "exec", "-n", "live", "--", "argv", "x")
	if code != 0 || !strings.Contains(shown, "note: this gateway cannot run a command on a terminal yet") ||
		!strings.Contains(shown, `"argv" "x"`) {
		t.Errorf("without interactive exec: code %d\n%q", code, shown)
	}
}
