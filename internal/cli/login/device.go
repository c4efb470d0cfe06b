package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// deviceTimeout is the most that a person gets to sign in on another device; the provider may give less.
	deviceTimeout = 30 * time.Minute
	// maxUserCode bounds the code that a person types, in characters.
	maxUserCode = 64
)

// ReasonDevice means that the provider does not let this client sign in on another device.
const ReasonDevice = "OIDC_DEVICE_UNSUPPORTED"

// Device is how a person signs in who has no browser on this machine: on any other device (RFC 8628).
type Device struct {
	// Client reaches the identity provider.
	Client *http.Client
	// Notes is where the person reads what to do.
	Notes io.Writer
}

// Login asks the provider for a code, tells the person where to enter it, and waits until that is done. Like the flow in
// the browser it is bound to this process by PKCE. An error has reason ReasonDevice where the provider, or the client that
// is registered with it, does not know this flow.
func (d Device) Login(ctx context.Context, cfg Config) (profile.Token, error) {
	ends, err := Discover(ctx, d.Client, cfg.Issuer)
	if err != nil {
		return profile.Token{}, err
	}
	if ends.Device == "" {
		return profile.Token{}, fault.New(fault.FailedPrecondition, ReasonDevice,
			"the OIDC issuer %s names no device_authorization_endpoint", cfg.Issuer).
			WithNext("sign in with a browser on this machine, or as a machine with %s", SecretEnv)
	}
	oc := oauthConfig(cfg, ends, "")
	oc.Endpoint.DeviceAuthURL = ends.Device
	ctx = context.WithValue(ctx, oauth2.HTTPClient, d.Client)
	verifier := oauth2.GenerateVerifier()
	params := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	if cfg.Audience != "" {
		params = append(params, oauth2.SetAuthURLParam("audience", cfg.Audience))
	}
	code, err := oc.DeviceAuth(ctx, params...)
	if err != nil {
		return profile.Token{}, deviceError(err)
	}
	if err := d.show(cfg.Issuer, code); err != nil {
		return profile.Token{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	tok, err := oc.DeviceAccessToken(waiting, code, oauth2.VerifierOption(verifier))
	if ctx.Err() != nil {
		return profile.Token{}, context.Cause(ctx)
	}
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case err == nil:
		return bundle(cfg, tok), nil
	case errors.Is(err, context.DeadlineExceeded), ok && refused.ErrorCode == "expired_token":
		return profile.Token{}, fault.Wrap(err, fault.DeadlineExceeded, ReasonTimeout, "the code has expired before it was entered").
			WithNext("run the command again and enter the new code in time")
	}
	return profile.Token{}, tokenError(err, "sign in")
}

// deviceError words a refusal to hand out a code.
func deviceError(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return tokenError(err, "hand out a device code")
	}
	switch refused.ErrorCode {
	case "unauthorized_client", "invalid_client", "unsupported_grant_type":
		return fault.Wrap(err, fault.FailedPrecondition, ReasonDevice, "the identity provider lets this client not sign in on another device: %s",
			describe(refused.ErrorCode, refused.ErrorDescription)).
			WithNext("have the device grant allowed for the client, or sign in with a browser")
	}
	return tokenError(err, "hand out a device code")
}

// show tells the person what to do. What the provider sends goes to a terminal, so that it has to look like an address
// and a code.
func (d Device) show(issuer string, code *oauth2.DeviceAuthResponse) error {
	printable := func(s string) bool {
		return s != "" && len(s) <= maxUserCode && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	}
	if code.DeviceCode == "" || !printable(code.UserCode) || !showable(issuer, code.VerificationURI) {
		return fault.New(fault.Unavailable, ReasonProvider, "the identity provider sent a device code that cannot be used").
			WithNext("look into the provider's log")
	}
	if showable(issuer, code.VerificationURIComplete) {
		fmt.Fprintf(d.Notes, "Open this URL in a browser on any device to sign in:\n\n  %s\n\nand check that it shows the code %s.\n",
			code.VerificationURIComplete, code.UserCode)
	} else {
		fmt.Fprintf(d.Notes, "Open this URL in a browser on any device to sign in:\n\n  %s\n\nand enter the code %s.\n",
			code.VerificationURI, code.UserCode)
	}
	fmt.Fprintln(d.Notes, "Waiting for authentication...")
	return nil
}

// showable tells whether an address may be shown to a person: it is as safe as the issuer's.
func showable(issuer, address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && strings.HasPrefix(issuer, "http://")) &&
		!strings.ContainsFunc(address, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' })
}
