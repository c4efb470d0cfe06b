package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/cli"
)

// auditRecords is how many records the fake gateway has.
const auditRecords = 1100

// ListAuditRecords has records of two actors and filters by actor and verdict only.
func (g *gateway) ListAuditRecords(_ context.Context, r *sallyportpb.ListAuditRecordsRequest) (*sallyportpb.ListAuditRecordsResponse, error) {
	after, _ := strconv.Atoi(r.GetPageToken())
	resp := &sallyportpb.ListAuditRecordsResponse{}
	for i := after + 1; i <= auditRecords; i++ {
		record := &sallyportpb.AuditRecord{
			Sequence: uint64(i), TimeMs: 1_700_000_000_000 + int64(i), Actor: "https://idp|alice", ActorKind: "user",
			Action: "/openshell.v1.OpenShell/CreateSandbox", Target: "sandbox/default/s\x1b[2J", Verdict: "allowed",
			RequestId: fmt.Sprintf("r-%d", i), Remote: "192.0.2.1", Hash: strings.Repeat("ab", 32),
		}
		if i == 3 {
			record.Actor, record.ActorKind, record.Verdict, record.Reason = "anonymous", "anonymous", "denied", "TOKEN_MISSING"
			record.Details = map[string]string{"repeated": "5"}
		}
		if r.GetActor() != "" && r.GetActor() != record.Actor || r.GetVerdict() != "" && r.GetVerdict() != record.Verdict {
			continue
		}
		if r.GetRequestId() == "needs-since" && r.GetSinceMs() == 0 {
			continue
		}
		resp.Records = append(resp.Records, record)
		if len(resp.Records) == int(r.GetPageSize()) {
			resp.NextPageToken = strconv.Itoa(i)
			break
		}
	}
	return resp, nil
}

// command runs one command line against the fake gateway.
func command(t *testing.T, endpoint string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	home := t.TempDir()
	var out, errs bytes.Buffer
	code = cli.Run(t.Context(), append([]string{"--gateway-endpoint", endpoint}, args...), cli.Options{
		Version: "1.2.3", Stdio: cli.Stdio{In: strings.NewReader(""), Out: &out, Err: &errs},
		Env: func(k string) (string, bool) {
			if k == "HOME" || k == "XDG_CONFIG_HOME" {
				return home, true
			}
			return "", false
		},
	})
	return code, out.String(), errs.String()
}

func TestAuditList(t *testing.T) {
	t.Parallel()
	_, at := startGateway(t, nil)
	code, out, errs := command(t, at.plain, "audit", "list", "--actor", "anonymous")
	if code != 0 || !strings.Contains(out, "TOKEN_MISSING x5") || !strings.Contains(out, "CreateSandbox") || strings.Contains(out, "\x1b") ||
		strings.Count(out, "\n") != 2 {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	code, out, errs = command(t, at.plain, "audit", "list", "--limit", "7", "--since", "2023-01-01T00:00:00Z")
	if code != 0 || strings.Count(out, "\n") != 8 || !strings.Contains(errs, "more records match") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	code, out, _ = command(t, at.plain, "audit", "list", "-o", "json", "--limit", "2000")
	var views []map[string]any
	if err := json.Unmarshal([]byte(out), &views); err != nil || code != 0 || len(views) != auditRecords || views[2]["reason"] != "TOKEN_MISSING" {
		t.Errorf("code %d: %d records, %v", code, len(views), err)
	}
	code, out, _ = command(t, at.plain, "audit", "list", "--verdict", "failed")
	if code != 0 || out != "No audit records found.\n" {
		t.Errorf("code %d: %s", code, out)
	}
	for _, args := range [][]string{
		{"--since", "yesterday"},
		{"--since", "-5m"},
		{"--since", "1h", "--until", "2h"},
		{"--verdict", "maybe"},
		{"--limit", "0"},
		{"--until", "99999999999d"},
		{"extra"},
	} {
		if code, _, errs := command(t, at.plain, append([]string{"audit", "list"}, args...)...); code != 2 {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}

func TestAuditExport(t *testing.T) {
	t.Parallel()
	_, at := startGateway(t, nil)
	for format, want := range map[string]struct {
		lines int
		text  string
	}{
		"json": {auditRecords, `"actor":"https://idp|alice"`}, "ocsf": {auditRecords, `"class_uid":6003`}, "otlp": {3, `"resourceLogs"`},
	} {
		code, out, errs := command(t, at.plain, "audit", "export", "--format", format)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if code != 0 || len(lines) != want.lines || !strings.Contains(lines[0], want.text) || !json.Valid([]byte(lines[0])) {
			t.Errorf("%s: code %d, %d lines, %.200s%s", format, code, len(lines), out, errs)
		}
	}
	bodies := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/v1/logs" && json.Valid(body) {
			bodies++
			io.WriteString(w, "{}")
			return
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer receiver.Close()
	code, out, errs := command(t, at.plain, "audit", "export", "--format", "otlp", "--endpoint", receiver.URL)
	if code != 0 || out != "" || bodies != 3 || !strings.Contains(errs, "1100 records sent") {
		t.Errorf("code %d, %d requests: %s%s", code, bodies, out, errs)
	}
	code, _, errs = command(t, at.plain, "audit", "export", "--format", "otlp", "--endpoint", receiver.URL+"/elsewhere")
	if code != 1 || !strings.Contains(errs, "418") {
		t.Errorf("code %d: %s", code, errs)
	}
	for _, args := range [][]string{{"--format", "xml"}, {"--endpoint", receiver.URL}, {"--format", "otlp", "--endpoint", "collector"}} {
		if code, _, errs := command(t, at.plain, append([]string{"audit", "export"}, args...)...); code != 2 {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}

func TestAuditVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	l, err := audit.Open(audit.Options{Dir: log, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Record(audit.Record{Time: time.Unix(1, 0), Actor: "i|alice", Verdict: audit.Allowed})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify := func(args ...string) (int, string, string) {
		return command(t, "", append([]string{"audit", "verify"}, args...)...)
	}
	code, out, errs := verify(log, "--public-key", filepath.Join(dir, "audit.key.pub"))
	if code != 0 || !strings.Contains(out, "Result: intact") || !strings.Contains(out, "Records: 3 (1 to 3)") || !strings.Contains(out, "up to record 3") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	file := filepath.Join(log, "audit-00000000000000000001.jsonl")
	if code, out, _ := verify(file); code != 0 || !strings.Contains(out, "give --public-key") {
		t.Errorf("code %d: %s", code, out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(whole, []byte("alice"), []byte("mally"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs = verify(log)
	if code != 1 || !strings.Contains(out, "NOT intact") || !strings.Contains(errs, "problem: "+file+":2: record 1 was altered") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	code, out, _ = verify(log, "-o", "json")
	var v struct {
		OK       bool  `json:"ok"`
		Problems []any `json:"problems"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 1 || v.OK || len(v.Problems) != 1 {
		t.Errorf("code %d: %s, %v", code, out, err)
	}
	for want, args := range map[int][][]string{
		1: {{t.TempDir()}, {"/absent"}, {log, "--public-key", "/absent"}, {log, "--public-key", file}}, 2: {{}},
	} {
		for _, a := range args {
			if code, _, errs := verify(a...); code != want {
				t.Errorf("%v: code %d, %s", a, code, errs)
			}
		}
	}
}
