package manifest_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

func settings() *manifest.Settings {
	return &manifest.Settings{
		GatewayID: "gw", Tenant: "team", GatewayEndpoint: "https://gateway.team.svc:8080", DefaultImage: "base:1",
		Supervisor:     manifest.Supervisor{Image: "supervisor:1", Path: "/openshell-sandbox", MountPath: "/opt/openshell/bin"},
		CASecret:       "gateway-tls",
		ServiceAccount: "openshell-sandbox", TokenAudience: "openshell-gateway", TokenSeconds: 3600,
		UID: 1000, Level: manifest.Restricted, WorkspaceSize: resource.MustParse("2Gi"), Seed: true,
	}
}

func sandbox() *computepb.DriverSandbox {
	return &computepb.DriverSandbox{
		Id: "0b8e1f4e-0001-4000-8000-000000000001", Name: "one", Workspace: "default",
		Spec: &computepb.DriverSandboxSpec{
			Environment: map[string]string{"A": "$(OPENSHELL_ENDPOINT) $5", "OPENSHELL_SANDBOX_TOKEN": "secret"}, SandboxToken: "secret",
			Template: &computepb.DriverSandboxTemplate{},
		},
	}
}

func object(t *testing.T, v map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(v)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type m = map[string]any

// TestGolden keeps whole objects, so that every change of what the cluster is given shows.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*manifest.Settings, *computepb.DriverSandbox){
		"plain": func(*manifest.Settings, *computepb.DriverSandbox) {},
		"everything": func(s *manifest.Settings, sb *computepb.DriverSandbox) {
			s.Supervisor.Volume, s.ClientSecret, s.PullSecrets, s.HostGatewayIP = true, "client-tls", []string{"pull"}, "10.0.0.9"
			s.NodeSelector = map[string]string{"pool": "sandboxes"}
			s.Tolerations = []corev1.Toleration{{Key: "sandboxes", Operator: corev1.TolerationOpExists}}
			s.WorkspaceClass = "fast"
			sb.Spec.Command, sb.Spec.Tty, sb.Spec.LogLevel = []string{"sh", "-c", "echo $HOME"}, true, "debug"
			sb.Spec.ResourceRequirements = &computepb.ResourceRequirements{Gpu: &computepb.GpuResourceRequirements{Count: proto.Uint32(2)}}
			sb.Spec.Template = &computepb.DriverSandboxTemplate{
				Image: "image:2", Labels: map[string]string{"app": "x"}, Environment: map[string]string{"A": "template", "B": "template"},
				Resources: &computepb.DriverResourceRequirements{CpuRequest: "500m", MemoryLimit: "1Gi"},
				PlatformConfig: object(t, m{
					"runtime_class_name": "gvisor", "annotations": m{"note": "y"}, "host_users": false,
					"resources_raw":          m{"limits": m{"ephemeral-storage": "1Gi"}},
					"volume_claim_templates": []any{m{"metadata": m{"name": "data"}, "spec": m{"resources": m{"requests": m{"storage": "1Gi"}}}}},
				}),
				DriverConfig: object(t, m{
					"node_selector": m{"disk": "ssd"}, "read_only_root": true, "run_as_user": 4711, "workspace_size": "5Gi",
					"mounts": []any{m{"path": "/data", "template": "data"}, m{"path": "/models", "claim": "models", "read_only": true}, m{"path": "/cache"}},
				}),
			}
		},
		"privileged": func(s *manifest.Settings, sb *computepb.DriverSandbox) {
			s.Level, s.Capabilities, s.UID, s.WorkspaceSize, s.Seed, s.CASecret = manifest.Privileged, []string{"SYS_ADMIN"}, 0, resource.Quantity{}, false, ""
			sb.Workspace, sb.Name = "", strings.Repeat("long-", 20)
		},
		"platform user": func(s *manifest.Settings, _ *computepb.DriverSandbox) { s.UID = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, sb := settings(), sandbox()
			change(s, sb)
			built, err := manifest.Build(s, sb, manifest.Target{APIVersion: "agents.x-k8s.io/v1beta1", Namespace: "boxes", Shared: true})
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(built)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(got), "secret\"") || strings.Contains(string(got), ": secret") {
				t.Error("the sandbox's token is in the object")
			}
			path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("object differs (-want +got); if it is right, run with -update:\n%s", diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	type change = func(*manifest.Settings, *computepb.DriverSandbox)
	template := func(change func(*computepb.DriverSandboxTemplate)) change {
		return func(_ *manifest.Settings, sb *computepb.DriverSandbox) { change(sb.Spec.Template) }
	}
	platform := func(v m) change {
		return template(func(s *computepb.DriverSandboxTemplate) { s.PlatformConfig = object(t, v) })
	}
	driver := func(v m) change {
		return template(func(s *computepb.DriverSandboxTemplate) { s.DriverConfig = object(t, v) })
	}
	mount := func(v m) change { return driver(m{"mounts": []any{v}}) }
	for name, c := range map[string]struct {
		change change
		reason string
		text   string
	}{
		"no spec":           {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Spec = nil }, "SPEC_MISSING", "spec"},
		"bad id":            {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Id = "a/b" }, "SANDBOX_ID_INVALID", ""},
		"long id":           {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Id = strings.Repeat("x", 64) }, "SANDBOX_ID_INVALID", ""},
		"no name":           {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Name = "" }, "SANDBOX_NAME_INVALID", ""},
		"no image":          {func(s *manifest.Settings, _ *computepb.DriverSandbox) { s.DefaultImage = "" }, "IMAGE_MISSING", "default image"},
		"image with spaces": {template(func(s *computepb.DriverSandboxTemplate) { s.Image = "a b" }), "IMAGE_INVALID", ""},
		"large environment": {func(_ *manifest.Settings, sb *computepb.DriverSandbox) {
			sb.Spec.Environment["X"] = strings.Repeat("x", 130<<10)
		}, "ENVIRONMENT_TOO_LARGE", "spec.environment"},
		"NUL":              {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Spec.Command = []string{"a\x00"} }, "COMMAND_INVALID", ""},
		"reserved label":   {template(func(s *computepb.DriverSandboxTemplate) { s.Labels = m2("openshell.ai/sandbox-id") }), "METADATA_RESERVED", "openshell.ai/sandbox-id"},
		"kubernetes label": {template(func(s *computepb.DriverSandboxTemplate) { s.Labels = m2("pod-security.kubernetes.io/x") }), "METADATA_RESERVED", ""},
		"bad label":        {template(func(s *computepb.DriverSandboxTemplate) { s.Labels = m2("-x") }), "METADATA_INVALID", ""},
		"reserved note":    {platform(m{"annotations": m{"openshell.io/sandbox-id": "other"}}), "METADATA_RESERVED", "annotations"},
		"unknown setting":  {platform(m{"privileged": true}), "PLATFORM_CONFIG_UNSUPPORTED", "privileged"},
		"bad quantity": {template(func(s *computepb.DriverSandboxTemplate) {
			s.Resources = &computepb.DriverResourceRequirements{CpuLimit: "lots"}
		}), "RESOURCES_INVALID", "limits.cpu"},
		"negative": {template(func(s *computepb.DriverSandboxTemplate) {
			s.Resources = &computepb.DriverResourceRequirements{CpuLimit: "-1"}
		}), "RESOURCES_INVALID", ""},
		"request over limit": {template(func(s *computepb.DriverSandboxTemplate) {
			s.Resources = &computepb.DriverResourceRequirements{CpuRequest: "2", CpuLimit: "1"}
		}), "RESOURCES_INVALID", "above the limit"},
		"gpu device": {func(_ *manifest.Settings, sb *computepb.DriverSandbox) { sb.Spec.GpuDevice = "0" }, "GPU_DEVICE_UNSUPPORTED", ""},
		"no user namespace": {func(s *manifest.Settings, sb *computepb.DriverSandbox) {
			s.UserNamespaces = true
			platform(m{"host_users": true})(s, sb)
		}, "USER_NAMESPACE_REQUIRED", ""},
		"unknown key": {driver(m{"volumes": []any{}}), "DRIVER_CONFIG_INVALID", "volumes"},
		"root":        {driver(m{"run_as_user": 0}), "DRIVER_CONFIG_INVALID", "run_as_user"},
		"platform's user": {func(s *manifest.Settings, sb *computepb.DriverSandbox) {
			s.UID = -1
			driver(m{"run_as_user": 5})(s, sb)
		}, "DRIVER_CONFIG_INVALID", "platform"},
		"operator's node": {func(s *manifest.Settings, sb *computepb.DriverSandbox) {
			s.NodeSelector = map[string]string{"pool": "a"}
			driver(m{"node_selector": m{"pool": "b"}})(s, sb)
		}, "DRIVER_CONFIG_INVALID", "operator"},
		"mount over token":   {mount(m{"path": "/var/run/secrets/openshell/x"}), "MOUNT_INVALID", ""},
		"mount over var":     {mount(m{"path": "/var/run"}), "MOUNT_INVALID", ""},
		"mount over root":    {mount(m{"path": "/"}), "MOUNT_INVALID", ""},
		"mount over program": {mount(m{"path": "/opt/openshell/../openshell/bin"}), "MOUNT_INVALID", ""},
		"relative mount":     {mount(m{"path": "data"}), "MOUNT_INVALID", ""},
		"way out":            {mount(m{"path": "/data", "sub_path": "a/../../b"}), "MOUNT_INVALID", "sub_path"},
		"no template":        {mount(m{"path": "/data", "template": "x"}), "MOUNT_INVALID", "template"},
		"secret":             {mount(m{"path": "/data", "secret": "gateway-tls"}), "DRIVER_CONFIG_INVALID", "secret"},
		"unused template":    {platform(m{"volume_claim_templates": m{"data": m{}}}), "CLAIM_TEMPLATE_INVALID", "nothing mounts"},
		"taken volume": {
			platform(m{"volume_claim_templates": []any{m{"metadata": m{"name": "workspace"}, "spec": m{"volumeName": "pv-of-others"}}}}),
			"CLAIM_TEMPLATE_INVALID", "must not name a volume",
		},
		"own volume's name": {platform(m{"volume_claim_templates": m{"openshell-sa-token": m{}}}), "CLAIM_TEMPLATE_INVALID", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, sb := settings(), sandbox()
			c.change(s, sb)
			_, err := manifest.Build(s, sb, manifest.Target{})
			f := fault.From(err)
			if err == nil || f.Reason != c.reason || !strings.Contains(f.Message, c.text) {
				t.Errorf("got %v (%s), want %s with %q", err, f.Reason, c.reason, c.text)
			}
			if f.Kind != fault.InvalidArgument && f.Kind != fault.FailedPrecondition {
				t.Errorf("kind %d", f.Kind)
			}
		})
	}
}

func m2(key string) map[string]string { return map[string]string{key: "x"} }

func TestObjectName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 60)
	seen := make(map[string]string)
	for _, c := range []struct {
		workspace, name string
		shared          bool
	}{
		{"default", "one", true},
		{"a", "b", true},
		{"a", "b", false},
		{"w", long, true},
		{"w", long + "x", true},
		{"w", long + "y", true},
		{"w", "UPPER", true},
		{"w", "upper", true},
		{"w", "a.b", true},
		{"w", "a_b", true},
		{"w", "-", true},
		{"w", "ü", true},
	} {
		got := manifest.ObjectName(c.workspace, c.name, c.shared)
		if !manifest.ValidName(got) {
			t.Errorf("%v: %q is no name", c, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%v and %s are both %q", c, other, got)
		}
		seen[got] = c.workspace + "/" + c.name
	}
	if got := manifest.ObjectName("default", "one", true); got != "default--one" {
		t.Errorf("got %q", got)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("one", "default", "image", "key", "value", `{"mounts":[{"path":"/data"}]}`, `{"volume_claim_templates":{"workspace":{}}}`)
	f.Add("ü", "", "a b", "kubernetes.io/x", "\x00", `{"node_selector":{"a":"b"}}`, `{"resources_raw":{"limits":{"cpu":1}}}`)
	f.Fuzz(func(t *testing.T, name, workspace, image, key, value, driver, platform string) {
		sb := sandbox()
		sb.Name, sb.Workspace = name, workspace
		sb.Spec.Environment[key] = value
		sb.Spec.Template = &computepb.DriverSandboxTemplate{Image: image, Labels: map[string]string{key: value}}
		for _, part := range []struct {
			text string
			to   **structpb.Struct
		}{{driver, &sb.Spec.Template.DriverConfig}, {platform, &sb.Spec.Template.PlatformConfig}} {
			var v map[string]any
			if json.Unmarshal([]byte(part.text), &v) != nil {
				continue
			}
			if s, err := structpb.NewStruct(v); err == nil {
				*part.to = s
			}
		}
		s := settings()
		built, err := manifest.Build(s, sb, manifest.Target{APIVersion: "v", Namespace: "n", Shared: true})
		if err != nil {
			return
		}
		pod := built.Spec.PodTemplate
		switch {
		case !manifest.ValidName(built.Metadata.Name):
			t.Errorf("name %q", built.Metadata.Name)
		case built.Metadata.Labels[manifest.LabelID] != sb.GetId(), pod.Metadata.Labels[manifest.LabelGateway] != "gw",
			pod.Metadata.Annotations[manifest.AnnotationPodID] != sb.GetId():
			t.Errorf("identity was overwritten: %v %v", built.Metadata.Labels, pod.Metadata)
		case *pod.Spec.AutomountServiceAccountToken, *pod.Spec.SecurityContext.RunAsUser == 0, pod.Spec.ServiceAccountName != s.ServiceAccount:
			t.Errorf("security was loosened: %v", pod.Spec.SecurityContext)
		}
		for _, v := range pod.Spec.Volumes {
			if v.Secret != nil || v.ConfigMap != nil || v.HostPath != nil {
				t.Errorf("volume %v", v)
			}
		}
		for label := range maps.Keys(pod.Metadata.Labels) {
			if strings.HasSuffix(strings.Split(label, "/")[0], "kubernetes.io") && strings.Contains(label, "/") {
				t.Errorf("label %q", label)
			}
		}
	})
}
