package servicehost

import (
	"net/http"
	"strings"
)

// cookieOf returns the secret of a browser's session. Several cookies of the name are none: one of them may have been
// slipped in.
func cookieOf(r *http.Request) string {
	secret, found := "", 0
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(part, "=")
			if strings.TrimSpace(name) == Cookie {
				secret = strings.TrimSpace(value)
				found++
			}
		}
	}
	if found != 1 {
		return ""
	}
	return secret
}

// gatewayCookie tells whether a cookie is meant for the gateway, or for the proxy in front of it, and not for programs.
func gatewayCookie(name string) bool {
	return strings.EqualFold(name, Cookie) || strings.EqualFold(name, "CF_Authorization") ||
		strings.EqualFold(name, "CF-Authorization") || strings.EqualFold(name, "CF_AppSession")
}

// programCookies leaves the program its own cookies in a request's header.
func programCookies(h http.Header) {
	lines := h["Cookie"]
	if len(lines) == 0 {
		return
	}
	var kept []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			name, value, pair := strings.Cut(part, "=")
			// A cookie without a name is sent as its value alone, which may look like another cookie.
			if name = strings.TrimSpace(name); part == "" || gatewayCookie(name) || pair && name == "" && gatewayCookie(firstName(value)) {
				continue
			}
			kept = append(kept, part)
		}
	}
	if len(kept) == 0 {
		h.Del("Cookie")
		return
	}
	h["Cookie"] = []string{strings.Join(kept, "; ")}
}

func firstName(value string) string {
	name, _, _ := strings.Cut(value, "=")
	return strings.TrimSpace(name)
}

// ownCookies keeps what a program sets inside its own host: no cookie gets a domain, which would give it to all other
// services and to the gateway, none is the gateway's, and none is without a name.
func ownCookies(h http.Header) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		if line, ok := ownCookie(line); ok {
			kept = append(kept, line)
		}
	}
	if len(kept) == 0 {
		h.Del("Set-Cookie")
		return
	}
	h["Set-Cookie"] = kept
}

func ownCookie(line string) (string, bool) {
	pair, attributes, has := strings.Cut(line, ";")
	name, _, ok := strings.Cut(pair, "=")
	if name = strings.TrimSpace(name); !ok || name == "" || gatewayCookie(name) {
		return "", false
	}
	if !has {
		return line, true
	}
	var out strings.Builder
	out.WriteString(pair)
	for attribute := range strings.SplitSeq(attributes, ";") {
		key, _, _ := strings.Cut(attribute, "=")
		if strings.EqualFold(strings.TrimSpace(key), "domain") {
			continue
		}
		out.WriteByte(';')
		out.WriteString(attribute)
	}
	return out.String(), true
}
