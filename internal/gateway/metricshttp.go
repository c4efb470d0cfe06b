package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/wstunnel"
)

// count counts what next answers. Connections to SSH count themselves, because they last.
func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == sshconnect.Path {
			next.ServeHTTP(w, r)
			return
		}
		began := time.Now()
		answer := &answer{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)
		path, status := pathLabel(r.URL.Path), statusLabel(answer.status)
		m.http.WithLabelValues(path, status).Inc()
		if answer.status != http.StatusSwitchingProtocols {
			m.pages.WithLabelValues(path, status).Observe(time.Since(began).Seconds())
		}
	})
}

// pathLabel is one of the few words that stand for all paths.
func pathLabel(path string) string {
	switch {
	case path == wstunnel.Path:
		return wstunnel.Path
	case path == "/auth" || strings.HasPrefix(path, "/auth/"):
		return "/auth"
	}
	return "unknown"
}

// statusLabel is the status as text; what is none is 0.
func statusLabel(status int) string {
	if status < 100 || status > 599 {
		status = 0
	}
	return strconv.Itoa(status)
}

// answer remembers the status of an answer.
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the last status, since informational ones come first.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what the connection can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
