package web_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/web"
)

// handedOver is what the command line client was sent.
type handedOver struct {
	Token, Code  string
	origin, kind string
}

// client stands for the command line client: it listens on a port of the loopback address, and takes a token from the
// gateway's page alone.
func client(t *testing.T, gateway func() string, answer string) (port int, got chan handedOver) {
	t.Helper()
	got = make(chan handedOver, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", gateway())
		w.Header().Set("Access-Control-Allow-Methods", "POST, OPTIONS")
		w.Header().Set("Access-Control-Allow-Headers", "Content-Type")
		if r.URL.Path != "/callback" || r.URL.RawQuery != "" {
			http.NotFound(w, r)
			return
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h := handedOver{origin: r.Header.Get("Origin"), kind: r.Method + " " + r.Header.Get("Content-Type")}
		if err := json.NewDecoder(r.Body).Decode(&h); err != nil {
			t.Errorf("the client was sent no JSON: %v", err)
		}
		if len(r.Cookies()) > 0 || r.Referer() != "" {
			t.Errorf("the client was sent the cookies %v and the referrer %q", r.Cookies(), r.Referer())
		}
		got <- h
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port, got
}

// The whole way in a browser that keeps to the page's policy: waiting, confirming, a click, and a token at the client.
func TestConnectInABrowser(t *testing.T) {
	b := launch(t)
	gateway := httptest.NewServer(web.Handler(config(t)))
	t.Cleanup(gateway.Close)
	port, got := client(t, func() string { return gateway.URL }, `{"ok":true}`)
	address := fmt.Sprintf("%s%s?callback_port=%d&code=ABC-2345", gateway.URL, web.PathConnect, port)

	b.open(address)
	b.await(`document.querySelector("h1")?.textContent === "Waiting for the sign-in"`)
	// The proxy signs the visitor in, with a token that would break out of a script.
	const token = `abc</script><script>window.injected=true</script><!--.def'"+window.alert+"`
	b.cookie(gateway.URL, web.CookieName, token)
	b.await(`document.getElementById("connect")`)
	if len(got) != 0 {
		t.Fatal("the token was sent before the visitor agreed")
	}
	var shown struct {
		Code, Host string
		Injected   bool
		Scripts    int
		Plain      bool
	}
	look := `({code: document.getElementById("code").textContent, host: document.getElementById("host").textContent,
		injected: window.injected === true, scripts: document.scripts.length,
		plain: getComputedStyle(document.getElementById("code")).display !== "block"})`
	b.eval(look, &shown)
	if shown.Code != "ABC-2345" || shown.Host != strings.TrimPrefix(gateway.URL, "http://") || shown.Injected || shown.Scripts != 1 || shown.Plain {
		t.Errorf("the page shows %+v", shown)
	}
	b.click("connect")
	b.await(`document.getElementById("status").textContent.startsWith("Connected.")`)
	select {
	case h := <-got:
		if h.Token != token || h.Code != "ABC-2345" || h.origin != gateway.URL || h.kind != "POST application/json" {
			t.Errorf("the client was sent %+v", h)
		}
	default:
		t.Error("the page says that it is connected, and the client was sent nothing")
	}
	var breaches []string
	b.eval("window.breaches", &breaches)
	if len(breaches) != 0 {
		t.Errorf("the page breaks its own policy: %q", breaches)
	}

	// The policy is in force: it keeps the page from doing anything else, and this test from passing without it.
	var done bool
	b.eval(fmt.Sprintf(`(() => {
		fetch("http://127.0.0.1:%d/elsewhere").catch(() => 0);
		const other = document.createElement("button");
		try {
			other.setAttribute("onclick", "window.injected = true");
		} catch {}
		document.body.append(other);
		other.click();
		return true;
	})()`, port%65535+1), &done)
	b.await(`window.breaches.some((b) => b.startsWith("connect-src")) && window.breaches.some((b) => b.startsWith("require-trusted-types-for"))`)
	b.eval(look, &shown)
	if shown.Injected {
		t.Error("an inline handler ran")
	}
}

func TestTheClientRefusesInABrowser(t *testing.T) {
	b := launch(t)
	gateway := httptest.NewServer(web.Handler(config(t)))
	t.Cleanup(gateway.Close)
	port, got := client(t, func() string { return gateway.URL }, `{"error":"<b>another code</b>"}`)
	b.cookie(gateway.URL, web.CookieName, "abc.def.ghi")
	b.open(fmt.Sprintf("%s%s?callback_port=%d&code=ABC-2345", gateway.URL, web.PathConnect, port))
	b.await(`document.getElementById("connect")`)
	for range 2 { // It may be tried again.
		b.click("connect")
		b.await(`document.getElementById("status").textContent === "The command line refused: <b>another code</b>" && !document.getElementById("connect").disabled`)
		<-got
	}
	// Nobody listens on port 1.
	b.open(gateway.URL + web.PathConnect + "?callback_port=1&code=ABC-2345")
	b.await(`document.getElementById("connect") && location.search.startsWith("?callback_port=1&")`)
	b.click("connect")
	b.await(`document.getElementById("status").textContent.includes("did not answer")`)
}

// A page of somebody else cannot show the confirmation in a frame and lead the visitor's click to it.
func TestThePageIsNotFramedInABrowser(t *testing.T) {
	b := launch(t)
	served := make(chan string, 10)
	pages := web.Handler(config(t))
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		pages.ServeHTTP(rec, r)
		served <- fmt.Sprintf("%d %s", rec.Code, r.Header.Get("Sec-Fetch-Dest"))
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}))
	t.Cleanup(gateway.Close)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `<!DOCTYPE html><iframe id="f" onload="window.loaded = true" src="%s%s?callback_port=1&code=ABC-2345"></iframe>`, gateway.URL, web.PathConnect)
	}))
	t.Cleanup(evil.Close)
	b.cookie(gateway.URL, web.CookieName, "abc.def.ghi")
	b.open(evil.URL + "/")
	b.await("window.loaded")
	if got := <-served; got != "403 iframe" {
		t.Errorf("the frame was answered with %q", got)
	}
}
