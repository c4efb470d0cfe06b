package credential

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/fault"
)

// Reasons of the errors of a Resolver.
const (
	// ReasonNotConfigured means that the gateway has no credentials driver.
	ReasonNotConfigured = "CREDENTIALS_DRIVER_NOT_CONFIGURED"
	// ReasonDriverUnavailable means that the driver was not reached or did not answer.
	ReasonDriverUnavailable = "CREDENTIALS_DRIVER_UNAVAILABLE"
	// ReasonUnknown means that the driver has no credential of the name.
	ReasonUnknown = "CREDENTIAL_UNKNOWN"
	// ReasonFetchFailed means that the driver has it and could not get a usable value.
	ReasonFetchFailed = "CREDENTIAL_FETCH_FAILED"
	// ReasonCallEnded means that the caller went away before the value was there.
	ReasonCallEnded = "CALL_ENDED"
	// ReasonTooMany means that more credentials are in use at once than the gateway keeps.
	ReasonTooMany = "TOO_MANY_CREDENTIALS"
)

// maxDetail bounds how much of a driver's own text a message repeats.
const maxDetail = 300

// explain says which credential could not be resolved, why, and what to do.
func explain(name string, err error) *fault.Error {
	switch {
	case !driver.Answered(err) && fault.From(err).Reason == driver.ReasonInvalidAnswer:
		return fault.Wrap(err, fault.Internal, ReasonFetchFailed, "credential %q cannot be resolved: %s", name, driver.MessageOf(err)).
			WithNext("update or repair the credentials driver")
	case !driver.Answered(err):
		return fault.Wrap(err, fault.Unavailable, ReasonDriverUnavailable, "credential %q cannot be resolved: %s",
			name, driver.MessageOf(err)).WithNext("%s", next(err))
	case driver.CodeOf(err) == codes.NotFound:
		return fault.Wrap(err, fault.FailedPrecondition, ReasonUnknown,
			"credential %q cannot be resolved: the credentials driver does not know it", name).
			WithNext("add %q to the configuration of the credentials driver, or correct the provider's reference", name)
	default:
		return fault.Wrap(err, fault.Unavailable, ReasonFetchFailed, "credential %q could not be fetched: %s (%s)",
			name, detail(err), driver.CodeOf(err)).
			WithNext("check the credential's client, secret and token endpoint in the configuration of the credentials driver")
	}
}

func next(err error) string {
	if n := fault.From(err).Next; n != "" {
		return n
	}
	return "check that the credentials driver runs, then try again"
}

func detail(err error) string {
	s := strings.Join(strings.Fields(driver.MessageOf(err)), " ")
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "..."
	}
	if s == "" {
		return "the driver gave no reason"
	}
	return s
}

func notConfigured(name string) *fault.Error {
	what := "credentials cannot be listed"
	if name != "" {
		what = "credential \"" + name + "\" cannot be resolved"
	}
	return fault.New(fault.FailedPrecondition, ReasonNotConfigured, "%s: the gateway has no credentials driver", what).
		WithNext("start the gateway with --credentials-driver-socket")
}

func callEnded(ctx context.Context, name string) *fault.Error {
	kind := fault.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = fault.DeadlineExceeded
	}
	return fault.Wrap(ctx.Err(), kind, ReasonCallEnded, "the call ended before credential %q was resolved", name).
		WithNext("try again; the value is still being fetched")
}
