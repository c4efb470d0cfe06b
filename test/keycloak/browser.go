//go:build linux

package keycloak

import (
	"context"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
)

// loopbackJar keeps cookies as browsers do, for whom a loopback address is as good as TLS.
type loopbackJar struct{ *cookiejar.Jar }

func (j loopbackJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	for _, c := range cookies {
		c.Secure = false
	}
	j.Jar.SetCookies(u, cookies)
}

var formAction = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)

// FillIn stands for the browser and the person before it: it opens the page, sends its form, and follows the way back to the
// client.
func (r Realm) FillIn(ctx context.Context, page, user string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	browser := *r.HTTP
	browser.Jar = loopbackJar{jar}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := browser.Do(request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	form := formAction.FindSubmatch(body)
	if err != nil || form == nil {
		return errors.Join(err, errors.New("no form: "+resp.Status))
	}
	resp, err = post(ctx, &browser, html.UnescapeString(string(form[1])), url.Values{"username": {user}, "password": {Passwords(user)}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/callback" {
		return errors.New("the login ended at " + resp.Request.URL.Path + " with " + resp.Status)
	}
	return nil
}
