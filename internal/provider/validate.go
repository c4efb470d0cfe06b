package provider

import (
	"maps"
	"slices"
	"strings"

	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

// Bounds of a provider, in bytes and entries.
const (
	MaxType        = 64
	MaxCredentials = 32
	MaxConfig      = 64
)

func validateCreate(p *Provider) error {
	if err := limits.Name("name", p.Name); err != nil {
		return err
	}
	if strings.TrimSpace(p.Type) == "" {
		return fault.New(fault.InvalidArgument, limits.ReasonRequired, "provider.type is required").
			WithNext("name the provider's type, for example 'github' or 'generic'")
	}
	if err := limits.Length("provider.type", p.Type, MaxType); err != nil {
		return err
	}
	if len(p.Credentials) == 0 {
		return fault.New(fault.InvalidArgument, limits.ReasonRequired, "provider.credentials must not be empty").
			WithNext("give at least one credential, as a value or as driver://credentials/NAME")
	}
	if err := validateMaps(p.Credentials, p.Config, p.ExpiresAtMS); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(p.Credentials)) {
		if p.Credentials[k] == "" {
			return fault.New(fault.InvalidArgument, limits.ReasonRequired, "provider.credentials value of %q must not be empty", k).
				WithNext("leave the key out, or give it a value")
		}
	}
	return limits.Labels("labels", p.Labels)
}

// validateMaps checks what a caller sent; empty values are the business of create and update.
func validateMaps(credentials, config map[string]string, expires map[string]int64) error {
	if err := limits.StringMap("provider.credentials", credentials, MaxCredentials, limits.MaxMapKey, limits.MaxMapValue); err != nil {
		return err
	}
	if err := limits.StringMap("provider.config", config, MaxConfig, limits.MaxMapKey, limits.MaxMapValue); err != nil {
		return err
	}
	const expiryField = "provider.credential_expires_at_ms"
	if err := limits.Entries(expiryField, len(expires), MaxCredentials); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(expires)) {
		if err := limits.Length(expiryField+" key", k, limits.MaxMapKey); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(credentials)) {
		switch {
		case k == "":
			return fault.New(fault.InvalidArgument, limits.ReasonRequired, "provider.credentials key is required").
				WithNext("name the environment variable that gets the value")
		case credentials[k] == Redacted:
			return fault.New(fault.InvalidArgument, "CREDENTIAL_REDACTED",
				"provider.credentials value of %q is the marker %s that stands for hidden values", k, Redacted).
				WithNext("leave the key out to keep its value, or send the new value")
		}
	}
	return nil
}

// parseValue tells what a non-empty credential value is.
func parseValue(key, value string) (ref credential.Reference, is bool, err error) {
	ref, is, err = credential.Parse(value)
	if err != nil {
		f := fault.From(err)
		return ref, false, fault.Wrap(err, f.Kind, f.Reason, "provider.credentials %q: %s", key, f.Message).WithNext("%s", f.Next)
	}
	return ref, is, nil
}
