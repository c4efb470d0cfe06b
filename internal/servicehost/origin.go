package servicehost

import (
	"net/http"
	"net/url"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
)

func crossOrigin() error {
	return fault.New(fault.PermissionDenied, ReasonCrossOrigin, "cross-origin service request rejected").
		WithNext("open the service in a window of its own; a program sends its token in the header %s or %s", headerAuthorization, HeaderAuthorization)
}

// foreign tells whether, as far as browsers say it, another page than one of the service itself makes the request. All
// services of a domain are one site, so that a cookie's SameSite keeps no service from another one's pages. A window that
// somebody opens by a link is no such request.
func foreign(r *http.Request) bool {
	origins, site := r.Header["Origin"], r.Header.Get("Sec-Fetch-Site")
	switch {
	case len(origins) > 1:
		return true
	case len(origins) == 1 && origins[0] != "null":
		return !own(origins[0], r)
	case site == "same-origin" || site == "none":
		return false
	case site != "":
		return !safe(r.Method) || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	case len(origins) == 1:
		return true
	}
	// A browser of old, or no browser at all. What changes something must then come from somewhere.
	if referer := r.Header.Get("Referer"); referer != "" {
		return !safe(r.Method) && !own(originOf(referer), r)
	}
	return !safe(r.Method)
}

// strictlyForeign is foreign as the reference has it for those who need not sign in: every page of another origin is.
func strictlyForeign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return true
	}
	for _, origin := range r.Header["Origin"] {
		if !own(origin, r) {
			return true
		}
	}
	for _, referer := range r.Header["Referer"] {
		if !own(originOf(referer), r) {
			return true
		}
	}
	return false
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// own tells whether an origin is that of the host that the request asks for. A gateway behind a proxy that ends TLS is
// asked without it for pages that have it.
func own(origin string, r *http.Request) bool {
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || scheme != "https" && (scheme != "http" || r.TLS != nil) {
		return false
	}
	return strings.EqualFold(bare(scheme, host), bare(scheme, r.Host))
}

// bare is a host without the port that its scheme has anyway.
func bare(scheme, host string) string {
	if scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// originOf is the origin of a URL, empty where there is none.
func originOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return strings.ToLower(u.Scheme) + "://" + u.Host
}
