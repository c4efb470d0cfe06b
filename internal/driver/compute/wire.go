package compute

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/fault"
)

// toWire builds the message of a create. Labels of the sandbox itself never go to a driver, and the namespace is
// the driver's choice.
func toWire(s *Spec) (*computepb.DriverSandbox, error) {
	env, err := environment(s)
	if err != nil {
		return nil, err
	}
	template, err := s.Template.toWire()
	if err != nil {
		return nil, err
	}
	spec := &computepb.DriverSandboxSpec{
		LogLevel: s.LogLevel, Environment: env, Template: template, GpuDevice: s.GPUDevice,
		SandboxToken: s.Token, Command: s.Command, Tty: s.TTY,
	}
	if s.GPUs != nil {
		// Only when asked for: an older driver has a bool at this tag and would refuse the message.
		gpu := &computepb.GpuResourceRequirements{}
		if *s.GPUs > 0 {
			gpu.Count = s.GPUs
		}
		spec.ResourceRequirements = &computepb.ResourceRequirements{Gpu: gpu}
	}
	return &computepb.DriverSandbox{Id: s.ID, Name: s.Name, Workspace: s.Workspace, Spec: spec}, nil
}

func environment(s *Spec) (map[string]string, error) {
	env := make(map[string]string, len(s.Environment)+1)
	for _, k := range slices.Sorted(maps.Keys(s.Environment)) {
		v := s.Environment[k]
		if ReservedEnvironment(k) && !(k == TokenVariable && s.Token != "" && v == s.Token) {
			return nil, reserved("spec.environment", k)
		}
		env[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(s.Template.Environment)) {
		if ReservedEnvironment(k) {
			return nil, reserved("template.environment", k)
		}
	}
	if s.Token != "" {
		env[TokenVariable] = s.Token
	}
	return env, nil
}

func reserved(field, name string) error {
	return fault.New(fault.InvalidArgument, "ENVIRONMENT_NAME_RESERVED",
		"%s key %q is set by the gateway, the driver or the supervisor; such names are reserved", field, name).
		WithNext("choose another variable name")
}

func (t *Template) toWire() (*computepb.DriverSandboxTemplate, error) {
	resources, raw := splitResources(t.Resources)
	platform := map[string]any{}
	if t.RuntimeClass != "" {
		platform["runtime_class_name"] = t.RuntimeClass
	}
	if len(t.Annotations) > 0 {
		annotations := make(map[string]any, len(t.Annotations))
		for k, v := range t.Annotations {
			annotations[k] = v
		}
		platform["annotations"] = annotations
	}
	if len(t.VolumeClaimTemplates) > 0 {
		platform["volume_claim_templates"] = t.VolumeClaimTemplates
	}
	if t.UserNamespaces != nil {
		platform["host_users"] = !*t.UserNamespaces
	}
	if len(raw) > 0 {
		platform["resources_raw"] = raw
	}
	platformConfig, err := structOf("template", platform)
	if err != nil {
		return nil, err
	}
	driverConfig, err := structOf("template.driver_config", t.DriverConfig)
	if err != nil {
		return nil, err
	}
	return &computepb.DriverSandboxTemplate{
		Image: t.Image, AgentSocketPath: t.AgentSocket, Labels: t.Labels, Environment: t.Environment,
		Resources: resources, PlatformConfig: platformConfig, DriverConfig: driverConfig,
	}, nil
}

func structOf(field string, m map[string]any) (*structpb.Struct, error) {
	if len(m) == 0 {
		return nil, nil
	}
	s, err := structpb.NewStruct(m)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "FIELD_NOT_JSON", "%s cannot be encoded as JSON", field).
			WithNext("send only JSON values in %s", field)
	}
	return s, nil
}

// splitResources takes the text values of cpu and memory out of the public form; the rest stays in its shape.
func splitResources(in map[string]any) (*computepb.DriverResourceRequirements, map[string]any) {
	out := &computepb.DriverResourceRequirements{}
	fields := map[string]*string{
		"requests/cpu": &out.CpuRequest, "limits/cpu": &out.CpuLimit,
		"requests/memory": &out.MemoryRequest, "limits/memory": &out.MemoryLimit,
	}
	raw := map[string]any{}
	typed := false
	for group, v := range in {
		entries, ok := v.(map[string]any)
		if !ok {
			raw[group] = v
			continue
		}
		rest := map[string]any{}
		for name, amount := range entries {
			text, isText := amount.(string)
			if field := fields[group+"/"+name]; field != nil && isText {
				*field, typed = text, typed || text != ""
				continue
			}
			rest[name] = amount
		}
		if len(rest) > 0 {
			raw[group] = rest
		}
	}
	if !typed {
		out = nil
	}
	return out, raw
}

// fromWire checks and turns a snapshot. The error says what is wrong and holds nothing long.
func fromWire(in *computepb.DriverSandbox) (Snapshot, error) {
	if in == nil {
		return Snapshot{}, fmt.Errorf("sandbox is missing")
	}
	if err := checkID(in.GetId()); err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{ID: in.GetId(), Name: cut(in.GetName(), maxWord), Workspace: cut(in.GetWorkspace(), maxWord)}
	st := in.GetStatus()
	if st == nil {
		return s, nil
	}
	if n := len(st.GetConditions()); n > maxConditions {
		return Snapshot{}, fmt.Errorf("sandbox %q has %d conditions, at most %d are read", s.ID, n, maxConditions)
	}
	s.HasStatus, s.Deleting = true, st.GetDeleting()
	s.InstanceID, s.SandboxName = cut(st.GetInstanceId(), maxWord), cut(st.GetSandboxName(), maxWord)
	s.AgentFD, s.SandboxFD = cut(st.GetAgentFd(), maxWord), cut(st.GetSandboxFd(), maxWord)
	s.Conditions = make([]Condition, 0, len(st.GetConditions()))
	for _, c := range st.GetConditions() {
		s.Conditions = append(s.Conditions, Condition{
			Type: cut(c.GetType(), maxWord), Status: cut(c.GetStatus(), maxWord), Reason: cut(c.GetReason(), maxWord),
			Message: cut(c.GetMessage(), maxText), LastTransition: cut(c.GetLastTransitionTime(), maxWord),
		})
	}
	return s, nil
}

func platformEvent(in *computepb.DriverPlatformEvent) PlatformEvent {
	e := PlatformEvent{
		Time: time.UnixMilli(in.GetTimestampMs()), Source: cut(in.GetSource(), maxWord), Type: cut(in.GetType(), maxWord),
		Reason: cut(in.GetReason(), maxWord), Message: cut(in.GetMessage(), maxText), Metadata: map[string]string{},
	}
	for _, k := range slices.Sorted(maps.Keys(in.GetMetadata())) {
		if len(e.Metadata) == maxMetadata {
			break
		}
		e.Metadata[cut(k, maxWord)] = cut(in.GetMetadata()[k], maxText)
	}
	return e
}

func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("sandbox id is empty")
	case len(id) > maxID:
		return fmt.Errorf("sandbox id has %d bytes, at most %d are read", len(id), maxID)
	case strings.ContainsFunc(id, func(r rune) bool { return r < 0x21 || r == 0x7f }):
		return fmt.Errorf("sandbox id has blank or control characters")
	}
	return nil
}

// cut shortens s to most bytes without breaking a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}
