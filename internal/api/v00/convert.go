package v00

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
)

// gpuTag is SandboxSpec field 9: a bool in the mvp generation, a message since. A varint there arrives as an
// unknown field.
const gpuTag protowire.Number = 9

func specFromWire(in *openshellpb.SandboxSpec) (*sandbox.Spec, error) {
	if in == nil {
		return nil, nil
	}
	out := &sandbox.Spec{
		LogLevel: in.LogLevel, Environment: in.Environment, Providers: in.Providers,
		GPUDevice: in.GpuDevice, Command: in.Command, TTY: in.Tty,
	}
	if t := in.Template; t != nil {
		out.Template = sandbox.Template{
			Image: t.Image, RuntimeClassName: t.RuntimeClassName, AgentSocket: t.AgentSocket, Labels: t.Labels,
			Annotations: t.Annotations, Environment: t.Environment, UserNamespaces: t.UserNamespaces,
			Resources: t.Resources.AsMap(), VolumeClaimTemplates: t.VolumeClaimTemplates.AsMap(), DriverConfig: t.DriverConfig.AsMap(),
		}
	}
	if in.Policy != nil {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(in.Policy)
		if err != nil {
			return nil, fault.Wrap(err, fault.InvalidArgument, "POLICY_ENCODING", "policy cannot be encoded")
		}
		out.Policy = raw
	}
	gpu, err := gpusFromWire(in)
	out.GPUs = gpu
	return out, err
}

func gpusFromWire(in *openshellpb.SandboxSpec) (*uint32, error) {
	if g := in.GetResourceRequirements().GetGpu(); g != nil {
		if g.Count != nil && *g.Count == 0 {
			return nil, fault.New(fault.InvalidArgument, "GPU_COUNT", "gpu count must be greater than 0").
				WithNext("leave the count out to ask for any number of GPUs")
		}
		n := g.GetCount()
		return &n, nil
	}
	if mvpGPU(in.ProtoReflect().GetUnknown()) {
		var anyNumber uint32
		return &anyNumber, nil
	}
	return nil, nil
}

// mvpGPU finds the older generation's flag among unknown fields.
func mvpGPU(unknown []byte) bool {
	for len(unknown) > 0 {
		num, typ, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return false
		}
		unknown = unknown[n:]
		if num == gpuTag && typ == protowire.VarintType {
			v, m := protowire.ConsumeVarint(unknown)
			return m > 0 && v != 0
		}
		if n = protowire.ConsumeFieldValue(num, typ, unknown); n < 0 {
			return false
		}
		unknown = unknown[n:]
	}
	return false
}

func specToWire(in *sandbox.Spec) (*openshellpb.SandboxSpec, error) {
	t := in.Template
	out := &openshellpb.SandboxSpec{
		LogLevel: in.LogLevel, Environment: in.Environment, Providers: in.Providers, GpuDevice: in.GPUDevice,
		Command: in.Command, Tty: in.TTY,
		Template: &openshellpb.SandboxTemplate{
			Image: t.Image, RuntimeClassName: t.RuntimeClassName, AgentSocket: t.AgentSocket, Labels: t.Labels,
			Annotations: t.Annotations, Environment: t.Environment, UserNamespaces: t.UserNamespaces,
		},
	}
	var err error
	for _, f := range []struct {
		from map[string]any
		to   **structpb.Struct
	}{
		{t.Resources, &out.Template.Resources},
		{t.VolumeClaimTemplates, &out.Template.VolumeClaimTemplates},
		{t.DriverConfig, &out.Template.DriverConfig},
	} {
		if len(f.from) == 0 {
			continue
		}
		if *f.to, err = structpb.NewStruct(f.from); err != nil {
			return nil, err
		}
	}
	if len(in.Policy) > 0 {
		out.Policy = &sandboxpb.SandboxPolicy{}
		if err := proto.Unmarshal(in.Policy, out.Policy); err != nil {
			return nil, err
		}
	}
	if in.GPUs != nil {
		gpu := &openshellpb.GpuResourceRequirements{}
		if *in.GPUs > 0 {
			gpu.Count = in.GPUs
		}
		out.ResourceRequirements = &openshellpb.ResourceRequirements{Gpu: gpu}
	}
	return out, nil
}

// sandboxToWire fills both generations' places for phase and policy version.
func sandboxToWire(s *sandbox.Sandbox) (*openshellpb.Sandbox, error) {
	spec, err := specToWire(&s.Spec)
	if err != nil {
		return nil, err
	}
	o := s.Object
	phase := openshellpb.SandboxPhase(s.Phase)
	status := &openshellpb.SandboxStatus{
		SandboxName: s.DriverName, AgentPod: s.InstanceID, AgentFd: s.AgentFD, SandboxFd: s.SandboxFD,
		Phase: phase, CurrentPolicyVersion: s.PolicyVersion, MainProcessInstanceId: s.MainInstanceID, ExitCode: s.Exited,
		Conditions: make([]*openshellpb.SandboxCondition, len(s.Status)),
	}
	for i, c := range s.Status {
		status.Conditions[i] = &openshellpb.SandboxCondition{
			Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, LastTransitionTime: c.LastTransition,
		}
	}
	return &openshellpb.Sandbox{
		Metadata: &datamodelpb.ObjectMeta{
			Id: o.ID, Name: o.Name, CreatedAtMs: millis(o.CreatedAt), Labels: o.Labels, ResourceVersion: o.Version,
			Annotations: s.Annotations, Workspace: o.Workspace, DeletionTimestampMs: millis(s.DeletionTimestamp),
		},
		Spec: spec, Status: status, Phase: phase, CurrentPolicyVersion: s.PolicyVersion,
	}, nil
}

// sandboxField is the tag of the sandbox in SandboxResponse, in SandboxStreamEvent and of the repeated sandboxes
// in ListSandboxesResponse.
const sandboxField protowire.Number = 1

// encodeSandbox returns the sandbox as an encoded field of a response, made once for each state of the sandbox.
// A response that carries such bytes as unknown fields is, on the wire, the same message as one with the field set,
// and costs a copy instead of an encoding.
func encodeSandbox(s *sandbox.Sandbox) ([]byte, error) {
	return s.Wire(func(s *sandbox.Sandbox) ([]byte, error) {
		m, err := sandboxToWire(s)
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "SANDBOX_ENCODING", "stored sandbox cannot be encoded")
		}
		raw, err := proto.Marshal(m)
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "SANDBOX_ENCODING", "stored sandbox cannot be encoded")
		}
		out := protowire.AppendTag(make([]byte, 0, len(raw)+8), sandboxField, protowire.BytesType)
		return protowire.AppendBytes(out, raw), nil
	})
}
