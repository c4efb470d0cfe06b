package devidp

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"
)

// tokenAnswer is the body of a successful token response (RFC 6749 section 5.1).
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token"`
	RefreshLife  int    `json:"refresh_expires_in"`
	Scope        string `json:"scope"`
}

// servePassword answers grant_type=password, which the library leaves out for good reason: the user's password
// passes through the client. The reference's tests sign in with it, so a development realm has to offer it.
func (p *Provider) servePassword(w http.ResponseWriter, r *http.Request) {
	c, ok := p.realm.client(r.PostFormValue("client_id"))
	if !ok || !c.password {
		refuse(w, http.StatusUnauthorized, "unauthorized_client", "client may not use the password grant")
		return
	}
	if c.Secret != "" && subtle.ConstantTimeCompare([]byte(c.Secret), []byte(r.PostFormValue("client_secret"))) != 1 {
		refuse(w, http.StatusUnauthorized, "invalid_client", "client secret is wrong")
		return
	}
	scopes := strings.Fields(r.PostFormValue("scope"))
	for _, s := range scopes {
		if !slices.Contains(strings.Fields(c.ScopeIDs), s) {
			refuse(w, http.StatusBadRequest, "invalid_scope", "a scope is unknown")
			return
		}
	}
	u, ok := p.realm.signIn(c, r.PostFormValue("username"), r.PostFormValue("password"))
	if !ok {
		refuse(w, http.StatusUnauthorized, "invalid_grant", "Invalid user credentials")
		return
	}
	grant := &goidc.Grant{
		Subject: u.subject(), Username: u.name, ClientID: c.ID, Scopes: strings.Join(scopes, " "),
		RefreshToken: rand.Text() + rand.Text(), RefreshTokenExpiresAt: int(time.Now().Unix()) + refreshSecs,
	}
	value, err := p.provider.MakeToken(r.Context(), grant)
	if err != nil {
		p.logger.Error("token not issued", "error", err)
		refuse(w, http.StatusInternalServerError, "server_error", "token could not be issued")
		return
	}
	answer(w, http.StatusOK, tokenAnswer{
		AccessToken: value, TokenType: "Bearer", ExpiresIn: tokenSecs,
		RefreshToken: grant.RefreshToken, RefreshLife: refreshSecs, Scope: grant.Scopes,
	})
}

func refuse(w http.ResponseWriter, status int, code, description string) {
	answer(w, status, map[string]string{"error": code, "error_description": description})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The header is out: a failure to write is the client's loss of the connection.
	_ = json.NewEncoder(w).Encode(body)
}
