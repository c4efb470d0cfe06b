package v00_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/inferencepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/authz"
)

// TestDescribe has a filled request of every method whose calls are recorded when they succeed. The fields that hold
// names hold "n-" and the field's name, all others, and these where they are secret, hold the marker.
func TestDescribe(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"CreateSandbox": "sandbox/n-workspace/n-name", "DeleteSandbox": "sandbox/n-workspace/n-name",
		"StopSandbox": "sandbox/n-workspace/n-name", "StartSandbox": "sandbox/n-workspace/n-name",
		"AttachSandboxProvider":  "sandbox/n-workspace/n-sandbox_name/provider/n-provider_name",
		"DetachSandboxProvider":  "sandbox/n-workspace/n-sandbox_name/provider/n-provider_name",
		"ExecSandbox":            "sandbox/n-sandbox_id",
		"ExecSandboxInteractive": "sandbox/n-sandbox_id", "ForwardTcp": "sandbox/n-sandbox_id", "CreateSshSession": "sandbox/n-sandbox_id",
		"RevokeSshSession": "",
		"ExposeService":    "sandbox/n-workspace/n-sandbox/service/n-service",
		"DeleteService":    "sandbox/n-workspace/n-sandbox/service/n-service",
		"CreateProvider":   "provider/n-workspace/n-name", "UpdateProvider": "provider/n-workspace/n-name",
		"DeleteProvider":           "provider/n-workspace/n-name",
		"ConfigureProviderRefresh": "provider/n-workspace/n-provider/credential/n-credential_key",
		"RotateProviderCredential": "provider/n-workspace/n-provider/credential/n-credential_key",
		"DeleteProviderRefresh":    "provider/n-workspace/n-provider/credential/n-credential_key",
		"ImportProviderProfiles":   "profile/n-workspace/n-id", "UpdateProviderProfiles": "profile/n-workspace/n-id",
		"DeleteProviderProfile": "profile/n-workspace/n-id",
		"UpdateConfig":          "sandbox/n-workspace/n-name",
		"ApproveDraftChunk":     "sandbox/n-workspace/n-name/chunk/n-chunk_id",
		"ApproveAllDraftChunks": "sandbox/n-workspace/n-name",
		"RejectDraftChunk":      "sandbox/n-workspace/n-name/chunk/n-chunk_id",
		"EditDraftChunk":        "sandbox/n-workspace/n-name/chunk/n-chunk_id",
		"UndoDraftChunk":        "sandbox/n-workspace/n-name/chunk/n-chunk_id", "ClearDraftChunks": "sandbox/n-workspace/n-name",
		"CreateWorkspace": "workspace/n-name", "DeleteWorkspace": "workspace/n-name",
		"AddWorkspaceMember":    "workspace/n-workspace/member/n-principal_subject",
		"RemoveWorkspaceMember": "workspace/n-workspace/member/n-principal_subject",
		"SetInferenceRoute":     "route/n-workspace/n-route_name", "DeleteInferenceRoute": "route/n-workspace/n-route_name",
		"SetClusterInference": "route/default/n-route_name",
		"Revoke":              "sandbox/n-sandbox_id", "Restore": "revocation/n-id", "RotateSandboxKeys": "gateway",
		// Methods of supervisors, which are recorded when they are refused.
		"ConnectSupervisor": "sandbox/n-sandbox_id", "RelayStream": "", "IssueSandboxToken": "", "RefreshSandboxToken": "",
		"GetSandboxProviderEnvironment": "sandbox/n-sandbox_id", "ExchangeProviderSubjectToken": "sandbox/n-sandbox_id",
		"PushSandboxLogs": "sandbox/n-sandbox_id", "ReportPolicyStatus": "sandbox/n-sandbox_id",
		"ReportMainProcessExit": "sandbox/n-sandbox_id", "SubmitPolicyAnalysis": "sandbox/n-workspace/n-name",
		"GetInferenceBundle": "", "GetSandboxConfig": "sandbox/n-sandbox_id", "GetDraftPolicy": "sandbox/n-workspace/n-name",
	}
	table, err := authz.NewTable(v00.Descriptors()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range v00.Descriptors() {
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			full := fmt.Sprintf("/%s/%s", service.FullName(), m.Name())
			rule, _ := table.Rule(full)
			kind, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				t.Fatal(err)
			}
			request := kind.New()
			fill(request, 4)
			got := v00.Describe(full, request.Interface())
			if strings.Contains(got, marker) {
				t.Errorf("%s: %q", full, got)
			}
			if !rule.Changes() && !rule.Mode.AdmitsSandbox() {
				continue
			}
			if target, ok := want[string(m.Name())]; !ok || got != target {
				t.Errorf("%s: %q, want %q (listed: %v)", full, got, target, ok)
			}
			v00.Describe(full, kind.New().Interface())
			v00.Describe(full, kind.Zero().Interface())
		}
	}
}

const marker = "sEcReT"

// named are the fields that hold names or ids; of those a target may be made.
var named = map[string]bool{
	"name": true, "id": true, "workspace": true, "sandbox_id": true, "sandbox_name": true, "sandbox": true, "provider": true,
	"provider_name": true, "service": true, "credential_key": true, "chunk_id": true, "principal_subject": true,
	"route_name": true, "issuer": true, "subject": true, "session_id": true,
}

// fill sets every field of a message; of a oneof it sets the first.
func fill(m protoreflect.Message, depth int) {
	if depth == 0 {
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && m.WhichOneof(o) != nil {
			continue
		}
		switch {
		case f.IsMap():
			if f.MapKey().Kind() == protoreflect.StringKind && f.MapValue().Kind() == protoreflect.StringKind {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(marker).MapKey(), protoreflect.ValueOfString(marker))
			}
		case f.IsList() && f.Message() != nil:
			inner := m.Mutable(f).List().AppendMutable().Message()
			fill(inner, depth-1)
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			m.Mutable(f).List().Append(protoreflect.ValueOfString(marker))
		case f.IsList():
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), depth-1)
		case f.Kind() == protoreflect.StringKind && named[string(f.Name())]:
			m.Set(f, protoreflect.ValueOfString("n-"+string(f.Name())))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(marker))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte(marker)))
		}
	}
}

func TestDescribeOddRequests(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 400)
	for _, tc := range []struct {
		method  string
		request any
		want    string
	}{
		{"CreateSandbox", &openshellpb.CreateSandboxRequest{}, ""},
		{"CreateSandbox", &openshellpb.CreateSandboxRequest{Name: "a/b\n%"}, "sandbox/default/a%2Fb%25"},
		{"CreateSandbox", &openshellpb.CreateSandboxRequest{Name: long}, "sandbox/default/" + long[:256] + "…"},
		{"CreateSandbox", (*openshellpb.CreateSandboxRequest)(nil), ""},
		{"CreateSandbox", nil, ""},
		{"CreateSandbox", "sandbox", ""},
		{"CreateProvider", &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{}}, ""},
		{"UpdateConfig", &openshellpb.UpdateConfigRequest{Global: true}, "gateway"},
		{"SetInferenceRoute", &inferencepb.SetInferenceRouteRequest{}, ""},
		{"ImportProviderProfiles", &openshellpb.ImportProviderProfilesRequest{Profiles: []*openshellpb.ProviderProfileImportItem{
			{Profile: &openshellpb.ProviderProfile{Id: "a"}}, {}, {Profile: &openshellpb.ProviderProfile{Id: "b"}},
		}}, "profile/default/a,b"},
		{"Revoke", revoke(&sallyportpb.Revocation{Issuer: "https://idp", Subject: "alice"}), "user/https://idp|alice"},
		{"Revoke", revoke(&sallyportpb.Revocation{Issuer: "https://idp", SessionId: "s"}), "session/https://idp|s"},
		{"Revoke", revoke(&sallyportpb.Revocation{}), ""},
	} {
		if got := v00.Describe("/x.Y/"+tc.method, tc.request); got != tc.want {
			t.Errorf("%s %v: %q, want %q", tc.method, tc.request, got, tc.want)
		}
	}
}

func revoke(r *sallyportpb.Revocation) proto.Message {
	return &sallyportpb.RevokeRequest{Revocation: r}
}

func BenchmarkDescribe(b *testing.B) {
	request := &openshellpb.ExecSandboxRequest{SandboxId: "f2d0c8a4-3f51-4a44-9c1c-2f6a77a5f0b1", Command: []string{"ls"}}
	b.ReportAllocs()
	for b.Loop() {
		v00.Describe("/openshell.v1.OpenShell/ExecSandbox", request)
	}
}
