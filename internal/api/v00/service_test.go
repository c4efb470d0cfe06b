package v00_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authz"
)

func TestServicesOnTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t, authz.Policy{Scheme: authz.Roles, AdminRole: "openshell-admin", UserRole: "openshell-user"})
	id := r.box(t, "default", "box", "alice")
	client := openshellpb.NewOpenShellClient(r.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer user;alice;openshell-user;openshell:all")

	made, err := client.ExposeService(ctx, &openshellpb.ExposeServiceRequest{Sandbox: "box", Service: "web", TargetPort: 8000})
	if err != nil {
		t.Fatal(err)
	}
	e, m := made.Endpoint, made.Endpoint.GetMetadata()
	if made.Url != "https://default--box--web.services.example:8080/" || e.SandboxId != id || e.SandboxName != "box" || e.ServiceName != "web" ||
		e.TargetPort != 8000 || !e.Domain || m.Name != "box--web" || m.Workspace != "default" || m.Labels["sandbox"] != "box" ||
		m.Id == "" || m.CreatedAtMs == 0 || m.ResourceVersion != 1 {
		t.Errorf("exposed: %v", made)
	}
	again, err := client.ExposeService(ctx, &openshellpb.ExposeServiceRequest{Sandbox: "box", Service: "web", TargetPort: 65535, Workspace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if n := again.Endpoint.Metadata; n.Id != m.Id || n.CreatedAtMs != m.CreatedAtMs || n.ResourceVersion != 2 || again.Endpoint.TargetPort != 65535 {
		t.Errorf("exposed again: %v", again)
	}
	if unnamed, err := client.ExposeService(ctx, &openshellpb.ExposeServiceRequest{Sandbox: "box", TargetPort: 1}); err != nil ||
		unnamed.Endpoint.Metadata.Name != "box" || unnamed.Url != "https://default--box.services.example:8080/" {
		t.Errorf("unnamed: %v %v", unnamed, err)
	}
	if got, err := client.GetService(ctx, &openshellpb.GetServiceRequest{Sandbox: "box", Service: "web"}); err != nil || got.Url != made.Url ||
		got.Endpoint.TargetPort != 65535 {
		t.Errorf("got: %v %v", got, err)
	}
	list, err := client.ListServices(ctx, &openshellpb.ListServicesRequest{Sandbox: "box"})
	// Two of the same millisecond are in the order of their names.
	if err != nil || len(list.Services) != 2 || list.Services[0].Endpoint.ServiceName != "web" && list.Services[1].Endpoint.ServiceName != "web" {
		t.Errorf("list: %v %v", list, err)
	}
	for _, want := range []bool{true, false} {
		gone, err := client.DeleteService(ctx, &openshellpb.DeleteServiceRequest{Sandbox: "box", Service: "web"})
		if err != nil || gone.Deleted != want {
			t.Errorf("deleted: %v %v, want %t", gone, err, want)
		}
	}
	records := r.audit.of("ExposeService")
	if len(records) != 3 || records[0].Target != "sandbox/default/box/service/web" || records[0].Actor != testIssuer+"|alice" {
		t.Errorf("recorded: %+v", records)
	}
	if got := r.audit.of("DeleteService"); len(got) != 2 {
		t.Errorf("recorded: %+v", got)
	}
}

func TestServiceRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, authz.Policy{Scheme: authz.Roles, AdminRole: "openshell-admin", UserRole: "openshell-user"})
	r.box(t, "default", "box", "alice")
	client := openshellpb.NewOpenShellClient(r.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer user;alice;openshell-admin;openshell:all")
	expose := func(sandbox, service string, port uint32) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := client.ExposeService(ctx, &openshellpb.ExposeServiceRequest{Sandbox: sandbox, Service: service, TargetPort: port})
			return err
		}
	}
	list := func(q *openshellpb.ListServicesRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := client.ListServices(ctx, q)
			return err
		}
	}
	long := strings.Repeat("a", 19)
	for name, c := range map[string]struct {
		call func(context.Context) error
		code codes.Code
		text string
	}{
		"no sandbox":        {expose("", "", 1), codes.InvalidArgument, "sandbox is required"},
		"sandbox absent":    {expose(long, long, 1), codes.NotFound, "sandbox not found"},
		"sandbox too long":  {expose(long+"a", "", 1), codes.InvalidArgument, "sandbox must be at most 19 characters for sandbox service routing"},
		"service longest":   {expose("box", long, 1), codes.OK, ""},
		"service too long":  {expose("box", long+"a", 1), codes.InvalidArgument, "service must be at most 19 characters for sandbox service routing"},
		"service separator": {expose("box", "a--b", 1), codes.InvalidArgument, "service must not contain '--'"},
		"service capital":   {expose("box", "Web", 1), codes.InvalidArgument, "service must be a lowercase DNS label"},
		"service hyphen":    {expose("box", "web-", 1), codes.InvalidArgument, "service must be a lowercase DNS label"},
		"port 0":            {expose("box", "web", 0), codes.InvalidArgument, "target_port must be in 1..=65535"},
		"port 1":            {expose("box", "web", 1), codes.OK, ""},
		"port 65535":        {expose("box", "web", 65535), codes.OK, ""},
		"port 65536":        {expose("box", "web", 65536), codes.InvalidArgument, "target_port must be in 1..=65535"},
		"all and workspace": {list(&openshellpb.ListServicesRequest{AllWorkspaces: true, Workspace: "w"}), codes.InvalidArgument, "all_workspaces and workspace are mutually exclusive"},
		"all and sandbox":   {list(&openshellpb.ListServicesRequest{AllWorkspaces: true, Sandbox: "box"}), codes.InvalidArgument, "all_workspaces and sandbox are mutually exclusive"},
		"get without name": {func(ctx context.Context) error {
			_, err := client.GetService(ctx, &openshellpb.GetServiceRequest{})
			return err
		}, codes.InvalidArgument, "sandbox is required"},
		"get absent": {func(ctx context.Context) error {
			_, err := client.GetService(ctx, &openshellpb.GetServiceRequest{Sandbox: "box", Service: "none"})
			return err
		}, codes.NotFound, "service endpoint not found"},
	} {
		if got := status.Convert(c.call(ctx)); got.Code() != c.code || !strings.Contains(got.Message(), c.text) {
			t.Errorf("%s: %v, want %s %q", name, got.Err(), c.code, c.text)
		}
	}
}
