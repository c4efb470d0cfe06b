package servicehost_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkSmallGet is one small request through port, gateway, relay, supervisor and program, and back, with everything in
// this process.
func BenchmarkSmallGet(b *testing.B) {
	for name, how := range map[string]struct {
		headers []string
		tls     bool
	}{
		"token": {[]string{bearer + "alice"}, false}, "token, TLS": {[]string{bearer + "alice"}, true}, "session": {nil, false},
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, options{tls: how.tls})
			r.expose("box", "web", "alice", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
			header := http.Header{}
			if how.headers == nil {
				header.Set("Cookie", r.signIn("alice", "box", "web")[len("Cookie: "):])
			} else {
				header.Set("Authorization", "Bearer user-alice")
			}
			c := r.client(false)
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.scheme()+"://"+r.host("box", "web")+"/", nil)
			if err != nil {
				b.Fatal(err)
			}
			req.Header = header
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.Do(req)
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp, err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

// BenchmarkDownload is a large answer, in bytes a second.
func BenchmarkDownload(b *testing.B) {
	const size = 16 << 20
	r := newRig(b, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 64<<10)
		for range size / len(chunk) {
			w.Write(chunk)
		}
	}))
	c := r.client(false)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.scheme()+"://"+r.host("box", "web")+"/", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer user-alice")
		resp, err := c.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
		resp.Body.Close()
	}
}

// BenchmarkRefused is a request of somebody who shows nothing.
func BenchmarkRefused(b *testing.B) {
	r := newRig(b, options{})
	w := &blank{header: http.Header{}}
	h := r.handler.Alone()
	req, err := http.NewRequestWithContext(context.WithValue(b.Context(), http.LocalAddrContextKey, &net.TCPAddr{}), http.MethodGet, "http://"+r.host("box", "web")+"/", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.RemoteAddr = "192.0.2.1:1"
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, req)
	}
}

type blank struct{ header http.Header }

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) Write(p []byte) (int, error) { return len(p), nil }
func (w *blank) WriteHeader(int)             {}

// BenchmarkUpload is a large request, in bytes a second.
func BenchmarkUpload(b *testing.B) {
	const size = 16 << 20
	r := newRig(b, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) }))
	c := r.client(false)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if a := r.askWith(c, http.MethodPost, r.host("box", "web"), "/", &counted{left: size}, bearer+"alice"); a.StatusCode != http.StatusOK {
			b.Fatal(a.StatusCode, a.body)
		}
	}
}
