package sandbox

import (
	"encoding/json"
	"strings"

	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

// Bounds of a main command.
const (
	maxCommandArgs  = 256
	maxCommandArg   = 32 << 10
	maxCommandTotal = 256 << 10
)

// validateCreate checks a request in the order of the reference gateways: spec, sizes, labels, annotations. Names
// follow the newer generation's alphabet, since drivers make objects and host names of them, and the older one's
// length.
func validateCreate(req *CreateRequest) error {
	if req.Spec == nil {
		return fault.New(fault.InvalidArgument, "SPEC_REQUIRED", "spec is required").WithNext("send a spec, it may be empty")
	}
	if err := limits.DNSLabel("name", req.Name, limits.MaxName); err != nil {
		return err
	}
	if err := validateSpec(req.Spec); err != nil {
		return err
	}
	if err := limits.Labels("labels", req.Labels); err != nil {
		return err
	}
	return validateAnnotations("annotations", req.Annotations)
}

func validateSpec(s *Spec) error {
	if len(s.Providers) > limits.MaxProviders {
		return fault.New(fault.InvalidArgument, limits.ReasonTooMany, "providers list exceeds maximum (%d > %d)",
			len(s.Providers), limits.MaxProviders).WithNext("attach at most %d providers", limits.MaxProviders)
	}
	for _, p := range s.Providers {
		if err := limits.Length("spec.providers", p, limits.MaxName); err != nil {
			return err
		}
	}
	if err := limits.Length("spec.log_level", s.LogLevel, limits.MaxLogLevel); err != nil {
		return err
	}
	if err := validateEnvironment("spec.environment", s.Environment); err != nil {
		return err
	}
	if err := limits.Length("spec.gpu_device", s.GPUDevice, limits.MaxTemplateString); err != nil {
		return err
	}
	if err := validateTemplate(&s.Template); err != nil {
		return err
	}
	if err := limits.Size("spec.policy", len(s.Policy), limits.MaxPolicySize); err != nil {
		return err
	}
	return validateCommand(s.Command)
}

func validateTemplate(t *Template) error {
	for _, f := range []struct{ name, value string }{
		{"template.image", t.Image}, {"template.runtime_class_name", t.RuntimeClassName}, {"template.agent_socket", t.AgentSocket},
	} {
		if err := limits.Length(f.name, f.value, limits.MaxTemplateString); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name  string
		value map[string]string
	}{{"template.labels", t.Labels}, {"template.annotations", t.Annotations}} {
		if err := limits.StringMap(f.name, f.value, limits.MaxTemplateMapEntries, limits.MaxMapKey, limits.MaxMapValue); err != nil {
			return err
		}
	}
	if err := validateEnvironment("template.environment", t.Environment); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		value map[string]any
	}{
		{"template.resources", t.Resources},
		{"template.volume_claim_templates", t.VolumeClaimTemplates},
		{"template.driver_config", t.DriverConfig},
	} {
		if len(f.value) == 0 {
			continue
		}
		raw, err := json.Marshal(f.value)
		if err != nil {
			return fault.Wrap(err, fault.InvalidArgument, "FIELD_UNENCODABLE", "%s cannot be encoded", f.name)
		}
		if err := limits.Size(f.name, len(raw), limits.MaxTemplateStruct); err != nil {
			return err
		}
	}
	return nil
}

// validateEnvironment also refuses names that belong to the protocol: a driver would set them twice, or a user
// could take a sandbox's identity away.
func validateEnvironment(field string, env map[string]string) error {
	if err := limits.Environment(field, env); err != nil {
		return err
	}
	for name := range env {
		if compute.ReservedEnvironment(name) {
			return fault.New(fault.InvalidArgument, "ENVIRONMENT_RESERVED",
				"%s: names such as %q are reserved for the runtime", field, name).WithNext("choose another name")
		}
	}
	return nil
}

func validateAnnotations(field string, annotations map[string]string) error {
	if err := limits.StringMap(field, annotations, limits.MaxLabels, limits.MaxLabelKey, limits.MaxMapValue); err != nil {
		return err
	}
	for k := range annotations {
		if err := limits.LabelKey(field, k); err != nil {
			return err
		}
	}
	return nil
}

func validateCommand(command []string) error {
	if len(command) == 0 {
		return nil
	}
	if len(command) > maxCommandArgs {
		return fault.New(fault.InvalidArgument, limits.ReasonTooMany, "spec.command exceeds %d argument limit", maxCommandArgs)
	}
	if command[0] == "" {
		return fault.New(fault.InvalidArgument, "COMMAND_EMPTY", "spec.command must begin with a program")
	}
	total := 0
	for _, a := range command {
		if err := limits.Length("spec.command argument", a, maxCommandArg); err != nil {
			return err
		}
		if strings.ContainsRune(a, 0) {
			return fault.New(fault.InvalidArgument, "COMMAND_NUL", "spec.command must not contain NUL")
		}
		total += len(a)
	}
	return limits.Size("spec.command", total, maxCommandTotal)
}
