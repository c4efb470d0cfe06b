package gateway_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway/config"
)

const shell = "/openshell.v1.OpenShell/"

// someone is the context of a user with a subject.
func (s *system) someone(subject string, roles ...string) context.Context {
	list := make([]any, len(roles))
	for i, r := range roles {
		list[i] = r
	}
	return bearer(s.t.Context(), s.issuer.Mint(map[string]any{
		"sub": subject, "sid": "session-of-" + subject, "realm_access": map[string]any{"roles": list}, "scope": "openshell:all",
	}))
}

func wantCode(t *testing.T, err error, want codes.Code, contains string) {
	t.Helper()
	if status.Code(err) != want || !strings.Contains(status.Convert(err).Message(), contains) {
		t.Errorf("got %v, want %s with %q", err, want, contains)
	}
}

func verdictOf(r *sallyportpb.ExplainAccessResponse, method string) *sallyportpb.MethodVerdict {
	i := slices.IndexFunc(r.Verdicts, func(v *sallyportpb.MethodVerdict) bool { return v.Method == method })
	if i < 0 {
		return nil
	}
	return r.Verdicts[i]
}

func TestExplainYourself(t *testing.T) {
	t.Parallel()
	s := start(t)
	r, err := s.ext.ExplainAccess(s.someone("alice", "openshell-user"), &sallyportpb.ExplainAccessRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if r.Subject != "alice" || r.Issuer != s.issuer.URL || r.Kind != "user" || !slices.Contains(r.Roles, "openshell-user") || r.Mode != "roles" {
		t.Errorf("identity: %v", r)
	}
	if v := verdictOf(r, shell+"ListSandboxes"); v == nil || !v.Allowed || v.RequiredRole != "user" || v.RequiredScope != "sandbox:read" {
		t.Errorf("ListSandboxes: %v", v)
	}
	if v := verdictOf(r, shell+"CreateProvider"); v == nil || v.Allowed || v.Reason != "ROLE_REQUIRED" || !strings.Contains(v.Message, "openshell-admin") {
		t.Errorf("CreateProvider: %v", v)
	}
	// What is explained is what happens.
	_, err = s.client.CreateProvider(s.someone("alice", "openshell-user"), &openshellpb.CreateProviderRequest{})
	wantCode(t, err, codes.PermissionDenied, "openshell-admin")
	if len(r.Steps) == 0 || strings.Contains(r.String(), "eyJ") {
		t.Errorf("steps: %v", r.Steps)
	}
	// Somebody without any role needs it most.
	r, err = s.ext.ExplainAccess(s.someone("nobody"), &sallyportpb.ExplainAccessRequest{Methods: []string{shell + "ListSandboxes"}})
	if err != nil || len(r.Verdicts) != 1 || r.Verdicts[0].Allowed {
		t.Errorf("without role: %v, %v", r, err)
	}
}

func TestExplainOthersIsForAdministrators(t *testing.T) {
	t.Parallel()
	s := start(t)
	about := &sallyportpb.ExplainAccessRequest{Issuer: s.issuer.URL, Subject: "alice", Methods: []string{shell + "CreateProvider"}}
	_, err := s.ext.ExplainAccess(s.someone("bob", "openshell-user"), about, grpc.WaitForReady(true))
	wantCode(t, err, codes.PermissionDenied, "platform admin role required")
	admin := s.someone("root", "openshell-admin")
	_, err = s.ext.ExplainAccess(admin, about)
	wantCode(t, err, codes.NotFound, "not been seen")
	if _, err := s.client.ListSandboxes(s.someone("alice", "openshell-user"), &openshellpb.ListSandboxesRequest{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.ext.ExplainAccess(admin, about)
	if err != nil || r.Subject != "alice" || r.Verdicts[0].Allowed {
		t.Errorf("alice: %v, %v", r, err)
	}
	r, err = s.ext.ExplainAccess(admin, &sallyportpb.ExplainAccessRequest{
		ClaimsJson: `{"iss":"` + s.issuer.URL + `","sub":"x","aud":"elsewhere","exp":4000000000}`, Methods: []string{shell + "ListSandboxes", shell + "Health"},
	})
	if err != nil || r.Kind != "anonymous" || r.Subject != "x" {
		t.Fatalf("claims for another audience: %v, %v", r, err)
	}
	if last := r.Steps[len(r.Steps)-1]; last.Name != "audience" || last.Outcome != "refused" {
		t.Errorf("last step: %v", last)
	}
	if r.Verdicts[0].Allowed || r.Verdicts[0].Reason != "NOT_ADMITTED" || !r.Verdicts[1].Allowed {
		t.Errorf("verdicts: %v", r.Verdicts)
	}
	for name, bad := range map[string]*sallyportpb.ExplainAccessRequest{
		"too many methods": {Methods: make([]string, 201)}, "half an identity": {Issuer: "x"}, "both": {Issuer: "x", Subject: "y", ClaimsJson: "{}"},
		"no JSON": {ClaimsJson: "{"}, "null": {ClaimsJson: "null"}, "too long": {ClaimsJson: strings.Repeat("x", 64<<10+1)},
	} {
		if _, err := s.ext.ExplainAccess(admin, bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPreviewTellsWhoWouldLoseAccess(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, who := range []string{"alice", "bob"} {
		if _, err := s.client.ListSandboxes(s.someone(who, "openshell-user"), &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	admin := s.someone("root", "openshell-admin", "staff")
	_, err := s.ext.PreviewAccess(s.someone("alice", "openshell-user"), &sallyportpb.PreviewAccessRequest{})
	wantCode(t, err, codes.PermissionDenied, "openshell-admin")
	r, err := s.ext.PreviewAccess(admin, &sallyportpb.PreviewAccessRequest{ConfigToml: ""})
	if err != nil || len(r.Changes) != 0 || r.Unchanged != 3 {
		t.Errorf("the same configuration: %v, %v", r, err)
	}
	r, err = s.ext.PreviewAccess(admin, &sallyportpb.PreviewAccessRequest{ConfigToml: "[openshell.gateway.oidc]\nuser_role = \"staff\"\n"})
	if err != nil || len(r.Changes) != 2 || r.Unchanged != 1 {
		t.Fatalf("another role: %v, %v", r, err)
	}
	for _, c := range r.Changes {
		if !slices.Contains(c.Lost, shell+"ListSandboxes") || len(c.Gained) != 0 {
			t.Errorf("%s: %v", c.Subject, c)
		}
	}
	_, err = s.ext.PreviewAccess(admin, &sallyportpb.PreviewAccessRequest{ConfigToml: "[openshell.gateway]\nnonsense = 1\n"})
	wantCode(t, err, codes.InvalidArgument, "nonsense")
}

func TestRevocationEndsOpenStreams(t *testing.T) {
	t.Parallel()
	s := start(t)
	box := s.create("watched")
	ctx, cancel := context.WithTimeout(s.someone("alice", "openshell-admin"), 20*time.Second)
	defer cancel()
	stream, err := s.client.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{Id: box.GetMetadata().GetId(), FollowStatus: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	admin := s.someone("root", "openshell-admin")
	r, err := s.ext.Revoke(admin, &sallyportpb.RevokeRequest{Revocation: &sallyportpb.Revocation{Issuer: s.issuer.URL, Subject: "alice", Reason: "left"}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Unauthenticated, "revoked")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stream lived on for %s", took)
	}
	_, err = s.client.ListSandboxes(s.someone("alice", "openshell-admin"), &openshellpb.ListSandboxesRequest{})
	wantCode(t, err, codes.Unauthenticated, "revoked")
	if _, err := s.ext.Restore(admin, &sallyportpb.RestoreRequest{Id: r.Revocation.Id}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.ListSandboxes(s.someone("alice", "openshell-admin"), &openshellpb.ListSandboxesRequest{}); err != nil {
		t.Errorf("after it was restored: %v", err)
	}
}

func TestAuditRecordsChangesAndDenials(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create("made")
	_, err := s.client.CreateProvider(s.someone("mallory", "openshell-user"), &openshellpb.CreateProviderRequest{})
	wantCode(t, err, codes.PermissionDenied, "")
	admin := s.someone("root", "openshell-admin")
	find := func(req *sallyportpb.ListAuditRecordsRequest) *sallyportpb.AuditRecord {
		t.Helper()
		ctx, cancel := context.WithTimeout(admin, 10*time.Second)
		defer cancel()
		for {
			r, err := s.ext.ListAuditRecords(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Records) > 0 {
				return r.Records[0]
			}
		}
	}
	made := find(&sallyportpb.ListAuditRecordsRequest{Action: shell + "CreateSandbox"})
	if made.Verdict != "allowed" || made.Target != "sandbox/default/made" || made.ActorKind != "user" || made.RequestId == "" || len(made.Hash) != 64 {
		t.Errorf("the create: %v", made)
	}
	denied := find(&sallyportpb.ListAuditRecordsRequest{Verdict: "denied", Actor: s.issuer.URL + "|mallory"})
	if denied.Action != shell+"CreateProvider" || denied.Reason != "ROLE_REQUIRED" {
		t.Errorf("the denial: %v", denied)
	}
}

func TestApplyChangesRolesWithoutARestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	list := func(roles ...string) error {
		_, err := s.client.ListSandboxes(s.someone("alice", roles...), &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true))
		return err
	}
	if err := list("openshell-user"); err != nil {
		t.Fatal(err)
	}
	next, err := config.ParseText(s.args, home(t.TempDir()), []byte("[openshell.gateway.oidc]\nuser_role = \"staff\"\n"))
	if err == nil {
		err = s.gateway.Apply(s.cfg, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, list("openshell-user"), codes.PermissionDenied, "role 'staff' required")
	if err := list("staff"); err != nil {
		t.Error(err)
	}
	admin := s.someone("root", "openshell-admin")
	for {
		r, err := s.ext.ListAuditRecords(admin, &sallyportpb.ListAuditRecordsRequest{Action: "config.reload"})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Records) > 0 {
			if d := r.Records[0].Details; r.Records[0].Target != "gateway.oidc.user_role" || !strings.Contains(d["new"], "staff") {
				t.Errorf("the record: %v", r.Records[0])
			}
			break
		}
	}
}
