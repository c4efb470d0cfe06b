package v00

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
)

func TestParseSelector(t *testing.T) {
	t.Parallel()
	pairs := func(n int) string {
		var parts []string
		for i := range n {
			parts = append(parts, fmt.Sprintf("k%d=v", i))
		}
		return strings.Join(parts, ",")
	}
	for in, want := range map[string]map[string]string{
		"": nil, "a=b": {"a": "b"}, " a=b , ,c=d,": {"a": "b", "c": "d"}, "a=": {"a": ""}, "a=b=c": {"a": "b=c"},
	} {
		if got, err := parseSelector(in); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q = %v, %v; want %v", in, got, err, want)
		}
	}
	if got, err := parseSelector(pairs(64)); err != nil || len(got) != 64 {
		t.Errorf("64 pairs: %v", err)
	}
	for _, in := range []string{"a", "a!=b", "a in (b)", "=b", "a==b", pairs(65)} {
		if _, err := parseSelector(in); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("%q: %v, want InvalidArgument", in, err)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	f.Add("a=b, c=,d=e=f")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseSelector(in)
		if err == nil && len(got) > maxSelectorPairs {
			t.Errorf("%d pairs accepted", len(got))
		}
	})
}

// The mvp generation sends a bool where a message is expected today.
func TestGPUOfTheOlderGeneration(t *testing.T) {
	t.Parallel()
	for value, want := range map[uint64]bool{0: false, 1: true} {
		raw := protowire.AppendVarint(protowire.AppendTag(nil, gpuTag, protowire.VarintType), value)
		in := &openshellpb.SandboxSpec{}
		if err := proto.Unmarshal(raw, in); err != nil {
			t.Fatal(err)
		}
		spec, err := specFromWire(in)
		if err != nil || (spec.GPUs != nil) != want {
			t.Errorf("gpu=%d: %v, %v", value, spec, err)
		}
	}
	zero := uint32(0)
	_, err := specFromWire(&openshellpb.SandboxSpec{ResourceRequirements: &openshellpb.ResourceRequirements{
		Gpu: &openshellpb.GpuResourceRequirements{Count: &zero},
	}})
	if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "gpu count must be greater than 0") {
		t.Errorf("count 0: %v", err)
	}
}

func FuzzMVPGPU(f *testing.F) {
	f.Add([]byte{0x48, 1})
	f.Fuzz(func(_ *testing.T, unknown []byte) { mvpGPU(unknown) })
}

func TestSpecRoundTrip(t *testing.T) {
	t.Parallel()
	limits, err := structpb.NewStruct(map[string]any{"limits": map[string]any{"cpu": "2", "nvidia.com/gpu": 1.0}})
	if err != nil {
		t.Fatal(err)
	}
	two, yes := uint32(2), true
	want := &openshellpb.SandboxSpec{
		LogLevel: "debug", Environment: map[string]string{"A": "b"}, Providers: []string{"p"}, GpuDevice: "d",
		Command: []string{"sh"}, Tty: true, Policy: &sandboxpb.SandboxPolicy{Version: 1},
		ResourceRequirements: &openshellpb.ResourceRequirements{Gpu: &openshellpb.GpuResourceRequirements{Count: &two}},
		Template: &openshellpb.SandboxTemplate{
			Image: "i", RuntimeClassName: "r", AgentSocket: "s", Labels: map[string]string{"l": "1"},
			Annotations: map[string]string{"a": "1"}, Environment: map[string]string{"E": "1"}, UserNamespaces: &yes, Resources: limits,
		},
	}
	spec, err := specFromWire(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := specToWire(spec)
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("came back as %v, %v; want %v", got, err, want)
	}
}
