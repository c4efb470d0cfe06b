// Package web answers browsers on the gateway's port: the page that hands the cookie of an edge proxy to the command
// line client of the same machine, and what a client needs to know to sign in. It keeps nothing and verifies no token:
// the cookie is the browser's own, and whoever gets it has to present it at the door.
package web

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"sallyport.dev/sallyport/internal/site"
)

// The paths that Handler answers.
const (
	PathConnect    = "/auth/connect"
	PathOIDCConfig = "/auth/oidc-config"
)

// CookieName is the edge proxy's cookie that the page hands over.
const CookieName = "CF_Authorization"

// maxCookie bounds the cookie's value in bytes. Browsers keep up to 4096 for name, value and attributes.
const maxCookie = 8 << 10

// InvalidCode is the text that clients match when a confirmation code has another form than theirs.
const InvalidCode = "Invalid confirmation code format"

// code is the form of a confirmation code.
var code = regexp.MustCompile(`\A[A-Z0-9]{3}-[A-Z0-9]{4}\z`)

// OIDC is what clients are told about the issuer of people's tokens. It says nothing of any client.
type OIDC struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
}

// Config is what the pages are made of.
type Config struct {
	// Connect serves PathConnect; without it the path is not found.
	Connect bool
	// OIDC returns what is in force, with an empty Issuer where there is none. Nil means none.
	OIDC func() OIDC
	// Site decides about names and about the pages that requests come from, for PathConnect.
	Site *site.Policy
	// Address is shown as the gateway's where a request names none.
	Address string
	// Version of the gateway, shown on the page.
	Version string
	Logger  *slog.Logger
	// Random makes the nonces; nil means crypto/rand.
	Random io.Reader
}

// Handler answers the paths of this package, and nothing else.
func Handler(cfg Config) http.Handler {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	p := &pages{cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathOIDCConfig, p.oidcConfig)
	if cfg.Connect {
		mux.HandleFunc("GET "+PathConnect, p.connect)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		strict(w.Header(), "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		mux.ServeHTTP(w, r)
	})
}

// strict sets what every answer says about itself.
func strict(h http.Header, policy string) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

type pages struct{ cfg Config }

func (p *pages) oidcConfig(w http.ResponseWriter, _ *http.Request) {
	var oidc OIDC
	if p.cfg.OIDC != nil {
		oidc = p.cfg.OIDC()
	}
	if oidc.Issuer == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(oidc); err != nil {
		p.cfg.Logger.Debug("the client went away", "error", err)
	}
}

func (p *pages) connect(w http.ResponseWriter, r *http.Request) {
	if !p.cfg.Site.Host(r) {
		p.fail(w, http.StatusForbidden, "This gateway does not answer under that name")
		return
	}
	if !p.cfg.Site.Navigation(r) {
		p.fail(w, http.StatusForbidden, "This page is opened in a window of its own")
		return
	}
	query := r.URL.Query()
	ports, codes := query["callback_port"], query["code"]
	if len(ports) != 1 || len(codes) != 1 {
		p.fail(w, http.StatusBadRequest, "The parameters callback_port and code are needed, each once")
		return
	}
	port, err := strconv.ParseUint(ports[0], 10, 16)
	if err != nil || port == 0 {
		p.fail(w, http.StatusBadRequest, "The parameter callback_port must be a port from 1 to 65535")
		return
	}
	if !code.MatchString(codes[0]) {
		p.fail(w, http.StatusBadRequest, InvalidCode)
		return
	}
	v := view{Port: uint16(port), Code: codes[0], Host: p.shownHost(r), Version: p.cfg.Version}
	token, there := cookie(r)
	switch {
	case !there:
		p.show(w, http.StatusOK, waiting, "", v)
	case !plain(token):
		p.fail(w, http.StatusBadRequest, "The cookie "+CookieName+" is no token")
	default:
		v.Token = token
		p.show(w, http.StatusOK, confirm, fmt.Sprintf("http://127.0.0.1:%d", v.Port), v)
	}
}

// shownHost is the name under which the visitor knows the gateway. It is shown, and decides nothing.
func (p *pages) shownHost(r *http.Request) string {
	const longest = 260 // A name of 253 bytes, and a port.
	for _, host := range []string{r.Header.Get("X-Forwarded-Host"), r.Host} {
		if host != "" && len(host) <= longest {
			return host
		}
	}
	return p.cfg.Address
}

// cookie returns the value of the first cookie of the name, as it came, if it has one.
func cookie(r *http.Request) (string, bool) {
	for _, line := range r.Header.Values("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			if name, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && name == CookieName {
				return value, value != ""
			}
		}
	}
	return "", false
}

// plain tells whether a value consists of visible ASCII characters.
func plain(value string) bool {
	for i := range len(value) {
		if value[i] <= ' ' || value[i] > '~' {
			return false
		}
	}
	return len(value) <= maxCookie
}

func (p *pages) fail(w http.ResponseWriter, status int, text string) {
	p.show(w, status, failed, "", view{Text: text})
}

// show writes a page. connectTo is the one origin that its script may speak to; none without it.
func (p *pages) show(w http.ResponseWriter, status int, page string, connectTo string, v view) {
	random := make([]byte, 16)
	if _, err := io.ReadFull(p.cfg.Random, random); err != nil {
		p.cfg.Logger.Error("make a nonce", "error", err)
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	v.Nonce = base64.RawURLEncoding.EncodeToString(random)
	policy := "default-src 'none'; style-src 'nonce-" + v.Nonce + "'"
	if connectTo != "" {
		policy += "; script-src 'nonce-" + v.Nonce + "'; connect-src " + connectTo + "; require-trusted-types-for 'script'"
	}
	strict(w.Header(), policy+"; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := templates.ExecuteTemplate(w, page, v); err != nil {
		p.cfg.Logger.Debug("the visitor went away", "error", err)
	}
}
