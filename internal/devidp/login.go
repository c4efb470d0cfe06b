package devidp

import (
	"bytes"
	"html/template"
	"net/http"

	"github.com/luikyv/go-oidc/pkg/goidc"
)

// maxAttempts is how often one login page may be tried.
const maxAttempts = 10

// pagePolicy lets a page show itself and send its form here or, through the redirect that follows, to the
// client's listener; nothing else loads or runs.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; " +
	"form-action 'self' http://127.0.0.1:* http://localhost:*"

// pages are parsed anew for each provider: there is no state to share.
func parsePages() *template.Template {
	return template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:24rem;margin:12vh auto;padding:0 1rem;color:#1b1f24;background:#fff}
label{display:block;margin-top:1rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid #767c85;border-radius:4px}
button{font:inherit;margin-top:1.5rem;padding:.5rem 1.5rem;border:0;border-radius:4px;background:#0b57d0;color:#fff}
.error{color:#b3261e}.note{color:#4b5158;font-size:.875rem}
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#16181c}.note{color:#a6adb5}.error{color:#f2b8b5}}
</style></head><body><h1>{{.Title}}</h1>
{{if .Error}}<p class="error" role="alert">{{.Error}}</p>{{end}}
{{if .Action}}<form method="post" action="{{.Action}}">
<label>User<input name="username" autocomplete="username" required autofocus value="{{.Username}}"></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button></form>
<p class="note">Development identity provider of this machine. Signing in to {{.Client}}.</p>{{end}}
</body></html>`))
}

type page struct {
	Title, Error, Action, Username, Client string
}

func (p *Provider) render(w http.ResponseWriter, status int, data page) error {
	var b bytes.Buffer
	if err := p.pages.Execute(&b, data); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err := b.WriteTo(w)
	return err
}

// policy is the login page as the library sees it: shown until a name and password fit.
func (p *Provider) policy() goidc.AuthnPolicy {
	ready := func(*http.Request, *goidc.AuthnSession, *goidc.Client) bool { return true }
	return goidc.NewPolicy("password", ready, func(w http.ResponseWriter, r *http.Request, as *goidc.AuthnSession, oc *goidc.Client) (goidc.Status, error) {
		c, ok := p.realm.client(oc.ID)
		if !ok {
			return goidc.StatusFailure, goidc.NewError(goidc.ErrorCodeUnauthorizedClient, "unknown client")
		}
		if as.Prompt == goidc.PromptTypeNone {
			return goidc.StatusFailure, goidc.NewError(goidc.ErrorCodeLoginRequired, "no login is remembered here")
		}
		show := page{Title: "Sign in", Action: p.path + authorizePath + "/" + as.ID, Client: c.ID}
		if r.Method != http.MethodPost || r.PostFormValue("username") == "" {
			return goidc.StatusPending, p.render(w, http.StatusOK, show)
		}
		name := r.PostFormValue("username")
		u, ok := p.realm.signIn(c, name, r.PostFormValue("password"))
		if !ok {
			if tries := attempts(as) + 1; tries >= maxAttempts {
				return goidc.StatusFailure, goidc.NewError(goidc.ErrorCodeAccessDenied, "too many attempts")
			}
			show.Error, show.Username = "User or password is wrong.", name
			return goidc.StatusPending, p.render(w, http.StatusUnauthorized, show)
		}
		as.Subject, as.Username = u.subject(), u.name
		as.GrantedScopes = as.Scopes
		return goidc.StatusSuccess, nil
	})
}

// attempts counts the failures of a login session and adds the present one.
func attempts(as *goidc.AuthnSession) int {
	if as.Store == nil {
		as.Store = map[string]any{}
	}
	n, _ := as.Store["attempts"].(int)
	as.Store["attempts"] = n + 1
	return n
}

func (p *Provider) renderError(w http.ResponseWriter, _ *http.Request, err error) error {
	p.logger.Debug("login failed", "error", err)
	return p.render(w, http.StatusBadRequest, page{
		Title: "Sign-in is not possible",
		Error: "The request is invalid or has expired. Go back to the program that opened this page and start again.",
	})
}
