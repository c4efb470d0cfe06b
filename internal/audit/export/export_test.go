package export_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/export"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample() audit.Record {
	return audit.Record{
		Sequence: 7, Time: time.UnixMilli(1_700_000_000_123).UTC(), Actor: "https://idp|alice", ActorKind: "user", Tenant: "t1",
		Action: "/openshell.v1.OpenShell/CreateSandbox", Target: "sandbox/default/x", Verdict: audit.Denied, Reason: "ROLE_MISSING",
		RequestID: "r-1", Remote: "192.0.2.1", Details: map[string]string{"k": "v"}, Hash: [32]byte{1},
	}
}

// decoded is a value as a receiver sees it.
func decoded(t *testing.T, v any) map[string]any {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]any{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func at(v any, path string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// TestOCSF checks what the schema requires of each class, and what a record's fields become.
func TestOCSF(t *testing.T) {
	t.Parallel()
	base := []string{
		"activity_id", "category_uid", "class_uid", "severity_id", "time", "type_uid", "metadata.version",
		"metadata.product.vendor_name", "metadata.product.name", "src_endpoint",
	}
	required := map[float64][]string{
		6003: {"actor.user.uid", "api.operation"},
		3002: {"user.uid", "service.name"},
	}
	for _, tc := range []struct {
		name   string
		change func(*audit.Record)
		class  float64
		typ    float64
		want   map[string]any
	}{
		{"denied", func(*audit.Record) {}, 6003, 600301, map[string]any{
			"status_id": 2.0, "status_code": "ROLE_MISSING", "actor.user.domain": "https://idp", "actor.user.name": "alice",
			"api.operation": "CreateSandbox", "api.service.name": "openshell.v1.OpenShell", "api.request.uid": "r-1",
			"src_endpoint.ip": "192.0.2.1", "resources.0.name": "sandbox/default/x", "resources.0.type": "sandbox",
			"metadata.tenant_uid": "t1", "metadata.sequence": 7.0, "metadata.uid": "01" + strings.Repeat("0", 62),
			"unmapped.details.k": "v", "time": 1_700_000_000_123.0, "severity_id": 2.0,
		}},
		{"deleted", func(r *audit.Record) { r.Action, r.Verdict, r.Reason = "/a.B/DeleteSandbox", audit.Allowed, "" }, 6003, 600304, map[string]any{"status_id": 1.0, "severity_id": 1.0}},
		{"listed", func(r *audit.Record) { r.Action = "/a.B/ListSandboxes" }, 6003, 600302, nil},
		{"updated", func(r *audit.Record) { r.Action = "/a.B/UpdateProvider" }, 6003, 600303, nil},
		{"executed", func(r *audit.Record) { r.Action = "/a.B/ExecSandbox" }, 6003, 600399, map[string]any{"activity_name": "ExecSandbox"}},
		{"disclosed", func(r *audit.Record) { r.Action = audit.ActionDisclose }, 6003, 600302, nil},
		{"started", func(r *audit.Record) { *r = audit.Record{Action: audit.ActionStart, Verdict: audit.Allowed} }, 6003, 600399, map[string]any{
			"actor.user.uid": "unknown", "src_endpoint.svc_name": "sallyport-gateway",
		}},
		{"broken", func(r *audit.Record) { r.Action, r.ActorKind = audit.ActionChainBroken, audit.Gateway }, 6003, 600399, map[string]any{"severity_id": 4.0, "actor.user.type_id": 3.0}},
		{"nobody", func(r *audit.Record) { r.Actor, r.ActorKind, r.Remote = "anonymous", "anonymous", "unix" }, 3002, 300201, map[string]any{
			"user.uid": "anonymous", "status_id": 2.0, "src_endpoint.name": "unix", "unmapped.target": "sandbox/default/x",
		}},
		{"opened", func(r *audit.Record) {
			r.Action, r.Actor, r.ActorKind, r.Details = audit.ActionSessionOpen, "sandbox/b", "sandbox", map[string]string{"session": "s"}
		}, 3002, 300201, map[string]any{"user.type_id": 4.0, "session.uid": "s"}},
		{"closed", func(r *audit.Record) { r.Action = audit.ActionSessionClose }, 3002, 300202, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := sample()
			tc.change(&r)
			got := decoded(t, export.OCSF(&r, "1.0"))
			if got["class_uid"] != tc.class || got["type_uid"] != tc.typ || got["category_uid"] != float64(int(tc.class)/1000) {
				t.Errorf("class %v, type %v", got["class_uid"], got["type_uid"])
			}
			for _, path := range append(required[tc.class], base...) {
				if at(got, path) == nil {
					t.Errorf("%s is missing", path)
				}
			}
			for path, want := range tc.want {
				if have := at(got, path); have != want {
					t.Errorf("%s is %v, want %v", path, have, want)
				}
			}
		})
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	broken := sample()
	broken.Action = audit.ActionLost
	body, err := export.Request([]audit.Record{sample(), broken}, export.Origin{Version: "1.0", Instance: "g"})
	if err != nil {
		t.Fatal(err)
	}
	got := decoded(t, body)
	const first = "resourceLogs.0.scopeLogs.0.logRecords.0."
	for path, want := range map[string]any{
		"resourceLogs.0.resource.attributes.0.key":               "service.name",
		"resourceLogs.0.resource.attributes.2.value.stringValue": "g",
		first + "timeUnixNano":                                   "1700000000123000000", first + "severityNumber": 13.0,
		first + "body.stringValue":                                  "https://idp|alice denied CreateSandbox on sandbox/default/x: ROLE_MISSING",
		first + "attributes.0.value.intValue":                       "7",
		"resourceLogs.0.scopeLogs.0.logRecords.1.severityNumber":    17.0,
		first + "attributes.11.value.kvlistValue.values.0.key":      "k",
		first + "attributes.1.key":                                  "audit.actor",
		"resourceLogs.0.scopeLogs.0.logRecords.1.attributes.1.key":  "audit.actor",
		"resourceLogs.0.scopeLogs.0.logRecords.1.observedTimeUnixX": nil,
	} {
		if have := at(got, path); have != want {
			t.Errorf("%s is %v, want %v", path, have, want)
		}
	}
}

// receiver is an OTLP receiver that can be told how to answer.
type receiver struct {
	*httptest.Server
	mu sync.Mutex
	// answer is asked for each request; nil takes everything.
	answer func(sequences []uint64) (code int, header http.Header)
	got    []uint64
	calls  int
	told   chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{told: make(chan struct{}, 1)}
	r.Server = httptest.NewServer(http.HandlerFunc(r.take))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var parsed any
	if err != nil || json.Unmarshal(body, &parsed) != nil || req.URL.Path != "/base/v1/logs" || req.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	var sequences []uint64
	records, _ := at(parsed, "resourceLogs.0.scopeLogs.0.logRecords").([]any)
	for _, record := range records {
		text, _ := at(record, "attributes.0.value.intValue").(string)
		n, _ := strconv.ParseUint(text, 10, 64)
		sequences = append(sequences, n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.answer != nil {
		if code, header := r.answer(sequences); code != 0 {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(code)
			return
		}
	}
	r.got = append(r.got, sequences...)
	io.WriteString(w, `{"partialSuccess":{"rejectedLogRecords":"1"}}`)
	select {
	case r.told <- struct{}{}:
	default:
	}
}

// await waits until the receiver has n records.
func (r *receiver) await(t *testing.T, n int) []uint64 {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		got := slices.Clone(r.got)
		r.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-r.told:
		case <-timeout:
			t.Fatalf("the receiver has %v, want %d records", got, n)
		}
	}
}

func openLog(t *testing.T) (*audit.Log, string) {
	t.Helper()
	dir := t.TempDir()
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "log"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, filepath.Join(dir, "cursor")
}

func record(l *audit.Log, n int) {
	for i := range n {
		l.Record(audit.Record{Action: fmt.Sprintf("a%d", i), Verdict: audit.Allowed})
	}
}

// follow runs a follower until the returned function is called.
func follow(t *testing.T, c export.Config) (o *export.OTLP, stop func()) {
	t.Helper()
	o, err := export.NewOTLP(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	return o, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// TestFollower sends what there is and what comes, passes over what is refused, and goes on after a restart where it was.
func TestFollower(t *testing.T) {
	t.Parallel()
	l, cursor := openLog(t)
	r := newReceiver(t)
	r.answer = func(sequences []uint64) (int, http.Header) {
		switch {
		case r.calls == 1:
			return http.StatusServiceUnavailable, http.Header{"Retry-After": {"1"}}
		case slices.Contains(sequences, 3):
			return http.StatusBadRequest, nil
		}
		return 0, nil
	}
	record(l, 5)
	c := export.Config{Endpoint: r.URL + "/base/", Log: l, Cursor: cursor}
	o, stop := follow(t, c)
	if got := r.await(t, 4); !slices.Equal(got, []uint64{1, 2, 4, 5}) {
		t.Errorf("sent %v", got)
	}
	record(l, 1)
	if got := r.await(t, 5); got[4] != 6 {
		t.Errorf("sent %v", got)
	}
	stop()
	if o.Sent() < 5 {
		t.Errorf("remembers %d", o.Sent())
	}
	remembered := o.Sent()
	record(l, 2)
	o, stop = follow(t, c)
	got := r.await(t, 7)
	stop()
	if !slices.Contains(got, 7) || !slices.Contains(got, 8) || o.Err() != nil || slices.Index(got[5:], remembered) >= 0 {
		t.Errorf("sent %v after a restart at %d, %v", got, remembered, o.Err())
	}
}

func TestFollowerWithoutAReceiver(t *testing.T) {
	t.Parallel()
	l, cursor := openLog(t)
	r := newReceiver(t)
	asked := make(chan struct{}, 100)
	r.answer = func([]uint64) (int, http.Header) {
		asked <- struct{}{}
		return http.StatusUnauthorized, nil
	}
	record(l, 1)
	o, stop := follow(t, export.Config{Endpoint: r.URL + "/base", Log: l, Cursor: cursor})
	<-asked
	<-asked
	if err := o.Err(); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("the follower says %v", err)
	}
	stop()
	if _, err := os.Stat(cursor); !os.IsNotExist(err) {
		t.Errorf("a cursor was written: %v", err)
	}
}

// A cursor beyond the log belongs to another log.
func TestFollowerOfANewLog(t *testing.T) {
	t.Parallel()
	l, cursor := openLog(t)
	r := newReceiver(t)
	record(l, 2)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cursor, []byte("100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stop := follow(t, export.Config{Endpoint: r.URL + "/base", Log: l, Cursor: cursor})
	r.await(t, 2)
	stop()
	if err := os.WriteFile(cursor, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := export.NewOTLP(export.Config{Endpoint: r.URL, Log: l, Cursor: cursor}); err == nil {
		t.Error("a cursor that is no number was taken")
	}
}

func TestSender(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"", "collector:4318", "ftp://x", "http://u:p@x", "http://x?a=b", "http://"} {
		if _, err := export.NewSender(endpoint, nil, export.Origin{}, nil); err == nil {
			t.Errorf("%q was taken", endpoint)
		}
	}
	var header http.Header
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	}))
	defer moved.Close()
	s, err := export.NewSender(moved.URL+"/v1/logs", map[string]string{"Authorization": "Bearer x"}, export.Origin{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send(t.Context(), []audit.Record{sample()}); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("a redirect: %v", err)
	}
	if header.Get("Authorization") != "Bearer x" {
		t.Errorf("headers %v", header)
	}
}
