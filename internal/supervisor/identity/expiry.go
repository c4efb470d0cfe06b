package identity

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// expiry reads the time of expiry from a JWT, without trusting it: only the gateway can verify its own token, and
// we just want to ask for the next one in time. False if there is none, or the token is not a readable JWT.
func expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil || claims.Exp < 1 || claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0), true
}
