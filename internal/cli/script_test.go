package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sallyport.dev/sallyport/internal/cli"
	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/profile"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": func() { os.Exit(run()) },
		"xdg-open":  func() { os.Exit(browse(os.Args[1])) },
	})
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return cli.Run(ctx, os.Args[1:], cli.Options{
		Version: "1.2.3", Stdio: cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, Env: os.LookupEnv,
	})
}

// browse stands for the desktop's browser: it follows the provider back to the callback.
func browse(address string) int {
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 1
	}
	return 0
}

// world is what one story runs in: a provider, a gateway that trusts it and one open to everybody.
type world struct {
	idp  *idptest.Provider
	gw   *gateway
	open *gateway
}

type worldKey struct{}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error { return setUp(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": expectCode, "mode": expectMode, "json": expectJSON, "expire": expireToken, "idp": changeProvider,
			"unseen": expectUnseen, "deadlink": deadEndpoint, "sized": makeSized, "interrupt": interruptCommand,
			"waitfor": waitFor,
		},
	})
}

func setUp(t *testing.T, env *testscript.Env) error {
	w := &world{idp: idptest.Start(t)}
	var at, openAt served
	w.gw, at = startGateway(t, w.idp)
	w.open, openAt = startGateway(t, nil)
	env.Values[worldKey{}] = w
	for name, data := range map[string][]byte{
		"ca.pem": at.ca, "open-ca.pem": openAt.ca, "client.pem": openAt.cert, "client.key": openAt.key,
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), data, 0o600); err != nil {
			return err
		}
	}
	for k, v := range map[string]string{
		"XDG_CONFIG_HOME": filepath.Join(env.WorkDir, "config"), "OPENSHELL_SYSTEM_GATEWAY_DIR": filepath.Join(env.WorkDir, "system"),
		"STATE": filepath.Join(env.WorkDir, "config", "openshell"), "ISSUER": w.idp.Issuer(), "SECRET": idptest.Secret,
		"GATEWAY": at.secure, "GATEWAY_PLAIN": at.plain, "OPEN": openAt.secure, "OPEN_PLAIN": openAt.plain,
		"PORT": freePort(t), "MUTUAL": openAt.mutualRequired, "DISPLAY": ":0", "NO_COLOR": "1",
	} {
		env.Setenv(k, v)
	}
	return nil
}

// freePort is one that nothing listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func here(ts *testscript.TestScript) *world {
	w, ok := ts.Value(worldKey{}).(*world)
	if !ok {
		ts.Fatalf("no world")
	}
	return w
}

// expectCode is "code N command...": the command must end with exactly N.
func expectCode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg {
		ts.Fatalf("usage: code N command...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// expectMode is "mode FILE OCTAL".
func expectMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// expectJSON is "json FILE PATH VALUE": FILE, which may be stdout, is one JSON value with VALUE at the dotted path.
func expectJSON(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s is not one JSON value: %v", args[0], err)
	}
	if len(args) == 1 {
		return
	}
	for _, step := range strings.Split(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(at) {
				ts.Fatalf("no %q in a list of %d", step, len(at))
			}
			v = at[i]
		default:
			ts.Fatalf("no %q in %v", step, v)
		}
	}
	if got := fmt.Sprint(v); got != args[2] {
		ts.Fatalf("%s is %q, want %q", args[1], got, args[2])
	}
}

// expireToken is "expire NAME": the stored token of a gateway is made old.
func expireToken(ts *testscript.TestScript, _ bool, args []string) {
	root := profile.At(ts.Getenv("STATE"), "")
	m, err := root.Load(args[0])
	ts.Check(err)
	token, err := root.LoadToken(m)
	ts.Check(err)
	token.Expiry = time.Now().Add(-time.Minute)
	ts.Check(root.SaveToken(args[0], token))
}

// changeProvider is "idp refuse ERROR", "idp down", "idp up", "idp nodevice", "idp polls ERROR...", "idp redirect URL", or
// "idp grant FILE".
func changeProvider(ts *testscript.TestScript, _ bool, args []string) {
	idp := here(ts).idp
	idp.Lock()
	defer idp.Unlock()
	switch args[0] {
	case "refuse":
		idp.Refuse = args[1]
	case "down":
		idp.Down = true
	case "up":
		idp.Down = false
	case "polls":
		idp.Devices = args[1:]
	case "nodevice":
		idp.NoDevice = true
	case "redirect":
		if got := idp.Asked().Get("redirect_uri"); got != args[1] {
			ts.Fatalf("the browser was sent back to %s, want %s", got, args[1])
		}
	case "grant":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(idp.GrantAccess()+"\n"), 0o600))
	default:
		ts.Fatalf("idp %v", args)
	}
}

// expectUnseen is "unseen": the open gateway has seen no token.
func expectUnseen(ts *testscript.TestScript, _ bool, _ []string) {
	if here(ts).open.sawBearer() {
		ts.Fatalf("a token was sent to the other gateway")
	}
}

// deadEndpoint is "deadlink": sets DEAD to an address at which nothing listens.
func deadEndpoint(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Setenv("DEAD", "http://127.0.0.1:1")
}

// makeSized is "sized FILE BYTES".
func makeSized(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), make([]byte, n), 0o600))
}

// interruptCommand is "interrupt": the commands in the background get the signal of Ctrl-C.
func interruptCommand(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(os.Interrupt))
	}
}

// waitFor is "waitfor NAME": until a command hangs in the open gateway's sandbox NAME.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	select {
	case <-here(ts).open.hanging("id-" + args[0]):
	case <-time.After(10 * time.Second):
		ts.Fatalf("no command hangs in %s", args[0])
	}
}
