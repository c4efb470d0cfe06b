package v00_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
)

func serve(t *testing.T, svc v00.Services) sallyportpb.GatewayClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	authenticator, err := authn.New(authn.Config{Development: &authn.Development{Roles: []string{"admin", "user"}}})
	if err != nil {
		t.Fatal(err)
	}
	table, err := authz.NewTable(v00.Descriptors()...)
	if err != nil {
		t.Fatal(err)
	}
	authorizer, err := authz.New(table, authz.Policy{AdminRole: "admin", UserRole: "user"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := door.New(door.Config{Authenticator: authenticator, Authorizer: authorizer})
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()))
	v00.Register(s, svc)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return sallyportpb.NewGatewayClient(conn)
}

func TestListAuditRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "log"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	began := time.UnixMilli(1_700_000_000_000)
	for i := range 5 {
		verdict := audit.Allowed
		if i == 3 {
			verdict = audit.Denied
		}
		log.Record(audit.Record{
			Time: began.Add(time.Duration(i) * time.Second), Actor: "i|a", Action: "do", Verdict: verdict, Target: "sandbox/default/x",
			Details: map[string]string{"k": "v"},
		})
	}
	if err := log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := serve(t, v00.Services{Audit: log})
	var got []*sallyportpb.AuditRecord
	for token := ""; ; {
		resp, err := client.ListAuditRecords(t.Context(), &sallyportpb.ListAuditRecordsRequest{PageSize: 2, PageToken: token, Actor: "i|a"})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, resp.Records...)
		if token = resp.NextPageToken; token == "" {
			break
		}
	}
	if len(got) != 5 || got[4].Sequence != 5 || got[1].TimeMs != began.UnixMilli()+1000 || got[0].Details["k"] != "v" || len(got[0].Hash) != 64 {
		t.Errorf("%v", got)
	}
	for _, tc := range []struct {
		req  *sallyportpb.ListAuditRecordsRequest
		want int
	}{
		{&sallyportpb.ListAuditRecordsRequest{Verdict: "denied"}, 1},
		{&sallyportpb.ListAuditRecordsRequest{Target: "sandbox/default/x", Action: "do"}, 5},
		{&sallyportpb.ListAuditRecordsRequest{Target: "sandbox/default"}, 0},
		{&sallyportpb.ListAuditRecordsRequest{SinceMs: began.UnixMilli() + 1000, UntilMs: began.UnixMilli() + 3000}, 2},
	} {
		resp, err := client.ListAuditRecords(t.Context(), tc.req)
		if err != nil || len(resp.Records) != tc.want || resp.NextPageToken != "" {
			t.Errorf("%v: %v, %v", tc.req, resp, err)
		}
	}
	for _, req := range []*sallyportpb.ListAuditRecordsRequest{
		{SinceMs: -1}, {SinceMs: 5, UntilMs: 5}, {PageSize: -1}, {PageToken: "x"}, {PageToken: "0"}, {Verdict: "maybe"},
	} {
		if _, err := client.ListAuditRecords(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

type brokenLog struct{}

func (brokenLog) Search(context.Context, audit.Filter) (audit.Page, error) {
	return audit.Page{}, errors.New("/secret/path: permission denied")
}

func TestListAuditRecordsWithoutALog(t *testing.T) {
	t.Parallel()
	_, err := serve(t, v00.Services{}).ListAuditRecords(t.Context(), &sallyportpb.ListAuditRecordsRequest{})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without a log: %v", err)
	}
	_, err = serve(t, v00.Services{Audit: brokenLog{}}).ListAuditRecords(t.Context(), &sallyportpb.ListAuditRecordsRequest{})
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("with a log that cannot be read: %v", err)
	}
}
