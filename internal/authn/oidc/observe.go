package oidc

// Observer counts what happens. Its labels are bounded: names of configured issuers or UnknownIssuer, and results of
// the closed sets below. Calls come from many goroutines and must return at once.
type Observer interface {
	// KeysFetched is called after each fetch of an issuer's keys with one of the Fetch results.
	KeysFetched(issuer, result string)
	// Verified is called for each token with ResultAccepted, ResultRemembered or the reason of the refusal.
	Verified(issuer, result string)
}

// UnknownIssuer stands for the issuer of tokens that name none of the configured ones, or cannot be read.
const UnknownIssuer = "unknown"

// Results of a fetch of keys.
const (
	FetchChanged   = "changed"
	FetchUnchanged = "unchanged"
	FetchFailed    = "failed"
)

// Results of verifying a token, beside the reasons of refusals.
const (
	ResultAccepted   = "accepted"
	ResultRemembered = "remembered"
)

type unobserved struct{}

func (unobserved) KeysFetched(string, string) {}
func (unobserved) Verified(string, string)    {}
