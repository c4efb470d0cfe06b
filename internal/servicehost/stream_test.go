package servicehost_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/servicehost"
)

// parrot says over a WebSocket what it hears.
func parrot(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil) // It checks that Origin and Host are the same.
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, data, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, data); err != nil {
			return
		}
	}
}

// socket opens a WebSocket.
func (r *rig) socket(url string, header http.Header) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(r.tb.Context(), url, &websocket.DialOptions{HTTPClient: r.client(false), HTTPHeader: header}) //nolint:bodyclose // The connection has it.
	return conn, err
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", tls), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{tls: tls})
			r.expose("box", "web", "alice", http.HandlerFunc(parrot))
			kind, session, _ := strings.Cut(r.signIn("alice", "box", "web"), ": ")
			url := strings.Replace(r.scheme(), "http", "ws", 1) + "://" + r.host("box", "web") + "/socket"
			conn, err := r.socket(url, http.Header{kind: {session}, "Origin": {r.scheme() + "://" + r.host("box", "web")}})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			for _, size := range []int{1, 100, 30_000} {
				sent := bytes.Repeat([]byte{'x'}, size)
				if err := conn.Write(t.Context(), websocket.MessageBinary, sent); err != nil {
					t.Fatal(err)
				}
				if _, got, err := conn.Read(t.Context()); err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("%d bytes: got %d, %v", size, len(got), err)
				}
			}
			if open := r.records.of(audit.ActionSessionOpen); len(open) != 2 || open[1].Details["upgrade"] != "true" {
				t.Errorf("recorded %+v", open)
			}
			if _, _, err := r.revoked.Revoke(t.Context(), user("root"), revocation.Revocation{Issuer: idp, Subject: "alice"}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, _, err := conn.Read(ctx); err == nil || ctx.Err() != nil {
				t.Errorf("a revoked user's connection lives: %v", err)
			}
			r.eventually("the end is recorded", func() bool {
				for _, record := range r.records.of(audit.ActionSessionClose) {
					if record.Details["upgrade"] == "true" && record.Details["reason"] == revocation.ReasonRevoked {
						return true
					}
				}
				return false
			})
			if _, err := r.socket(url, http.Header{kind: {session}, "Origin": {"https://evil.example"}}); err == nil {
				t.Error("a foreign page got a connection")
			}
		})
	}
}

func TestOtherUpgradesAreNotPassedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(echo))
	a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"alice", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Http2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
	if got := r.seen(a); a.StatusCode != http.StatusOK || got["Upgrade"] != nil || got["Connection"] != nil || got["Http2-Settings"] != nil {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestAnswersAreStreamed has each event read before the next is made.
func TestAnswersAreStreamed(t *testing.T) {
	t.Parallel()
	for _, version2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2 %t", version2), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{tls: true})
			next := make(chan struct{})
			r.expose("box", "web", "alice", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 5 {
					fmt.Fprintf(w, "data: %d\n", i)
					w.(http.Flusher).Flush()
					select {
					case <-next:
					case <-req.Context().Done():
						return
					}
				}
			}))
			c := r.client(version2)
			if version2 {
				c.Transport.(*http.Transport).Protocols.SetHTTP1(true)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.host("box", "web")+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer user-alice")
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for i := range 5 {
				if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) {
					t.Fatalf("event %d: %q %v", i, lines.Text(), lines.Err())
				}
				next <- struct{}{}
			}
			if lines.Scan() {
				t.Errorf("more than there was: %q", lines.Text())
			}
		})
	}
}

// TestBodiesGoAsTheyAreRead sends much more than anything between may hold, and reads it late.
func TestBodiesGoAsTheyAreRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	const size = 32 << 20
	start := make(chan struct{})
	r.expose("box", "web", "alice", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		<-start
		n, err := io.Copy(io.Discard, req.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	}))
	body := &counted{left: size}
	done := make(chan answer, 1)
	go func() {
		done <- r.askWith(r.client(false), http.MethodPost, r.host("box", "web"), "/", body, bearer+"alice")
	}()
	// It is held back once all that is between is full; then nothing more is taken.
	last := int64(-1)
	stuck := 0
	r.eventually("the sender is held back", func() bool {
		now := body.sent.Load()
		if now == last && now > 0 {
			stuck++
		} else {
			stuck = 0
		}
		last = now
		return stuck > 20
	})
	if last > size/2 {
		t.Errorf("%d bytes were taken that nobody read", last)
	}
	close(start)
	if a := <-done; a.body != fmt.Sprintf("%d <nil>", size) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// counted is a body that counts what was read of it.
type counted struct {
	left int
	sent atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), c.left)
	c.left -= n
	c.sent.Add(int64(n))
	return n, nil
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{host: servicehost.Config{MaxPerService: 3, MaxPerCaller: 2}})
	asked, release := make(chan struct{}), make(chan struct{})
	r.expose("box", "web", "alice", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/hold" {
			asked <- struct{}{}
			<-release
		}
	}))
	r.program("box", "other", "alice", http.HandlerFunc(hello))
	held := make(chan answer, 3)
	hold := func(who string) {
		go func() { held <- r.ask(http.MethodGet, r.host("box", "web"), "/hold", bearer+who) }()
		<-asked
	}
	hold("alice")
	hold("alice")
	for _, name := range []string{"web", "other"} {
		if a := r.ask(http.MethodGet, r.host("box", name), "/", bearer+"alice"); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" ||
			!strings.Contains(a.body, "by this caller") {
			t.Errorf("a third request of the caller to %s: %d %s", name, a.StatusCode, a.body)
		}
	}
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"bob"); a.StatusCode != http.StatusOK {
		t.Errorf("the third request to the service: %d %s", a.StatusCode, a.body)
	}
	hold("bob")
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"carol"); a.StatusCode != http.StatusTooManyRequests || !strings.Contains(a.body, "to this service") {
		t.Errorf("the fourth request to the service: %d %s", a.StatusCode, a.body)
	}
	close(release)
	for range 3 {
		if a := <-held; a.StatusCode != http.StatusOK {
			t.Errorf("held: %d %s", a.StatusCode, a.body)
		}
	}
	r.eventually("places are given back", func() bool { return r.handler.Open() == 0 })
}

func TestCallersAreLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{limits: ratelimit.Config{
		Anonymous: ratelimit.Rate{PerSecond: 0.001, Burst: 2}, Failed: ratelimit.Rate{PerSecond: 0.001, Burst: 1},
	}})
	host := r.host("box", "web")
	for i, want := range []int{401, 401, 429} {
		if a := r.ask(http.MethodGet, host, "/"); a.StatusCode != want {
			t.Errorf("anonymous %d: %d, want %d", i, a.StatusCode, want)
		}
	}
	if a := r.ask(http.MethodGet, host, servicehost.PathSignIn+"?code=x"); a.StatusCode != http.StatusForbidden {
		t.Errorf("a wrong link: %d", a.StatusCode)
	}
	if a := r.ask(http.MethodGet, host, servicehost.PathSignIn+"?code=x"); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("another wrong link: %d", a.StatusCode)
	}
}

func TestLoopbackWithoutSigningIn(t *testing.T) {
	t.Parallel()
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("on a port of TLS %t", split), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{loopback: true, tls: split, split: split, private: true})
			r.expose("box", "web", "alice", http.HandlerFunc(hello))
			host := r.host("box", "web")
			for name, c := range map[string]struct {
				host    string
				headers []string
				status  int
			}{
				"nobody":            {host, nil, 200},
				"same origin":       {host, []string{"Sec-Fetch-Site: same-origin", "Origin: http://" + host, "Referer: http://" + host + "/x"}, 200},
				"typed":             {host, []string{"Sec-Fetch-Site: none"}, 200},
				"sibling":           {host, []string{"Sec-Fetch-Site: same-site"}, 403},
				"link":              {host, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 403},
				"foreign origin":    {host, []string{"Origin: http://evil.example"}, 403},
				"opaque origin":     {host, []string{"Origin: null"}, 403},
				"foreign referer":   {host, []string{"Referer: http://evil.example/"}, 403},
				"through a proxy":   {host, []string{"X-Forwarded-For: 192.0.2.1"}, 401},
				"absent":            {r.host("box", "none"), nil, 404},
				"shows a token":     {host, []string{"Sallyport-Authorization: Bearer user-bob"}, 404},
				"shows its own":     {host, []string{"Sallyport-Authorization: Bearer user-alice"}, 200},
				"rebound name":      {"default--box--web.evil.example", nil, map[bool]int{true: 404, false: 200}[split]},
				"the gateway's own": {r.address, nil, map[bool]int{true: 404, false: 200}[split]},
			} {
				a := r.askOver(r.client(false), "http", http.MethodGet, c.host, "/", nil, c.headers...)
				if a.StatusCode != c.status || a.StatusCode == http.StatusOK && name == "rebound name" && a.body != "the gateway's own" {
					t.Errorf("%s: %d %s, want %d", name, a.StatusCode, a.body, c.status)
				}
			}
			if open := r.records.of(audit.ActionSessionOpen); len(open) != 2 || open[0].Details["by"] == open[1].Details["by"] {
				t.Errorf("recorded %+v", open)
			}
			if !split {
				return
			}
			if a := r.ask(http.MethodGet, host, "/"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("over TLS: %d", a.StatusCode)
			}
			if a := r.ask(http.MethodGet, host, "/", bearer+"alice"); a.StatusCode != http.StatusOK {
				t.Errorf("over TLS with a token: %d", a.StatusCode)
			}
			// Who says nothing does not hold up others, and gRPC is no business of a plain connection.
			silent, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: r.ca, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if a := r.askOver(r.client(false), "http", http.MethodPost, r.address, "/openshell.v1.OpenShell/Health", nil, "Content-Type: application/grpc"); a.StatusCode != http.StatusNotFound {
				t.Errorf("a call over a plain connection: %d", a.StatusCode)
			}
		})
	}
}

func TestLoopbackIsOffByItself(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestProgramThatAnswersBadly sees that a program harms nobody but itself.
func TestProgramThatAnswersBadly(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{host: servicehost.Config{HeaderTimeout: 200 * time.Millisecond}})
	r.supervise(r.box("box", "alice"))
	for name, c := range map[string]struct {
		text   string
		status int
	}{
		"nothing":            {"", 502},
		"no HTTP":            {"hello\r\n\r\n", 502},
		"endless head":       {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", 502},
		"silence":            {"-", 502},
		"upgrade unasked":    {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502},
		"two lengths":        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502},
		"as it should be":    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200},
		"until the end":      {"HTTP/1.0 200 OK\r\n\r\nok", 200},
		"bytes after an end": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
							return
						}
						if c.text == "-" {
							<-stop
						}
						io.WriteString(conn, c.text)
					}()
				}
			}()
			r.port("box", "web", "alice", uint32(l.Addr().(*net.TCPAddr).Port))
			for range 2 {
				a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"alice")
				if a.StatusCode != c.status || c.status == 200 && a.body != "ok" {
					t.Errorf("%d %q, want %d", a.StatusCode, a.body, c.status)
				}
			}
		})
	}
}

func TestSilentConnectionsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{host: servicehost.Config{Idle: 100 * time.Millisecond}})
	r.expose("box", "web", "alice", http.HandlerFunc(parrot))
	conn, err := r.socket("ws://"+r.host("box", "web")+"/", http.Header{"Authorization": {"Bearer user-alice"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, _, err := conn.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a silent connection lives: %v", err)
	}
}
