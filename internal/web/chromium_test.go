package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// requireChromium makes a missing browser a failure instead of a skip.
const requireChromium = "SALLYPORT_REQUIRE_CHROMIUM"

// patience bounds everything that a test waits for in a browser. Nothing depends on how long it really takes.
const patience = 60 * time.Second

// browser is a headless Chromium, spoken to in its DevTools protocol.
type browser struct {
	t       *testing.T
	ws      *websocket.Conn
	session string

	mu      sync.Mutex
	last    int
	pending map[int]chan reply
}

type reply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// launch starts Chromium with an empty profile and opens a page in it.
func launch(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		const missing = "NOT TESTED IN A BROWSER: there is no chromium on PATH (Debian: apt-get install chromium)"
		if os.Getenv(requireChromium) == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--no-proxy-server", "--disable-extensions", "--disable-background-networking", "--remote-debugging-port=0",
		"--user-data-dir="+t.TempDir(), "about:blank")
	// The profile is removed at the end, which fails while a helper of the browser still writes to it.
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	ownGroup(cmd)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	address, said := "", ""
	for address == "" && lines.Scan() {
		said += lines.Text() + "\n"
		if _, found, ok := strings.Cut(lines.Text(), "DevTools listening on "); ok {
			address = found
		}
	}
	var drained sync.WaitGroup
	drained.Go(func() { _, _ = io.Copy(io.Discard, out) })
	t.Cleanup(func() {
		endGroup(cmd)
		drained.Wait()
		_ = cmd.Wait()
	})
	if address == "" {
		t.Fatalf("chromium did not start:\n%s", said)
	}
	b := &browser{t: t, pending: map[int]chan reply{}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if b.ws, _, err = websocket.Dial(ctx, address, nil); err != nil { //nolint:bodyclose // There is none after an upgrade.
		t.Fatal(err)
	}
	b.ws.SetReadLimit(16 << 20)
	drained.Go(b.read)
	t.Cleanup(func() { _ = b.ws.CloseNow() })
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Page.enable", nil, nil)
	// What runs before the page's own scripts notes each breach of its policy.
	b.call("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.breaches = [];
		document.addEventListener("securitypolicyviolation", (e) => window.breaches.push(e.violatedDirective + " " + e.blockedURI));`}, nil)
	return b
}

// read hands answers to those who wait for them. Events are not needed.
func (b *browser) read() {
	for {
		_, raw, err := b.ws.Read(context.Background())
		if err != nil {
			return
		}
		var r reply
		if json.Unmarshal(raw, &r) != nil || r.ID == 0 {
			continue
		}
		b.mu.Lock()
		c := b.pending[r.ID]
		delete(b.pending, r.ID)
		b.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

// call sends a command and reads its result into out.
func (b *browser) call(method string, params map[string]any, out any) {
	b.t.Helper()
	if err := b.try(method, params, out); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

func (b *browser) try(method string, params map[string]any, out any) error {
	c := make(chan reply, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.pending[id] = c
	b.mu.Unlock()
	command := map[string]any{"id": id, "method": method, "params": params}
	if params == nil {
		command["params"] = struct{}{}
	}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	raw, err := json.Marshal(command)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.ws.Write(ctx, websocket.MessageText, raw); err != nil {
		return err
	}
	select {
	case r := <-c:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(r.Result, out)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// eval returns the value of an expression in the page.
func (b *browser) eval(expression string, out any) {
	b.t.Helper()
	var r struct {
		Result struct {
			Value json.RawMessage
		}
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, out); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

// await waits until the condition holds, across the pages that the window shows meanwhile.
func (b *browser) await(condition string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var r struct {
			Result struct{ Value bool }
		}
		// A page that goes away while it is asked answers with an error.
		err := b.try("Runtime.evaluate", map[string]any{
			"expression":    "new Promise((done) => setTimeout(() => done(!!(" + condition + ")), 20))",
			"returnByValue": true, "awaitPromise": true,
		}, &r)
		if err == nil && r.Result.Value {
			return
		}
	}
	var text string
	b.eval("document.documentElement.outerHTML", &text)
	b.t.Fatalf("%s never holds; the page:\n%s", condition, text)
}

func (b *browser) open(url string) { b.call("Page.navigate", map[string]any{"url": url}, nil) }

func (b *browser) cookie(url, name, value string) {
	b.call("Network.setCookie", map[string]any{"url": url, "name": name, "value": value, "httpOnly": true}, nil)
}

// click presses the mouse's button in the middle of an element.
func (b *browser) click(id string) {
	b.t.Helper()
	var at struct{ X, Y float64 }
	b.eval(fmt.Sprintf(`(() => { const r = document.getElementById(%q).getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()`, id), &at)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}
