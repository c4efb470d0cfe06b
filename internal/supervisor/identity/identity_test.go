package identity_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/identity"
)

func token(expires int64) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, expires)) + ".c2ln"
}

// gateway answers refreshes and notes when they came.
type gateway struct {
	openshellpb.OpenShellClient
	began   time.Time
	at      []time.Duration
	answers []func() (string, error)
}

func (g *gateway) RefreshSandboxToken(context.Context, *openshellpb.RefreshSandboxTokenRequest, ...grpc.CallOption) (*openshellpb.RefreshSandboxTokenResponse, error) {
	g.at = append(g.at, time.Since(g.began))
	answer := g.answers[min(len(g.at), len(g.answers))-1]
	t, err := answer()
	return &openshellpb.RefreshSandboxTokenResponse{Token: t}, err
}

func TestRefreshTimes(t *testing.T) {
	t.Parallel()
	ok := func(life time.Duration) func() (string, error) {
		return func() (string, error) { return token(time.Now().Add(life).Unix()), nil }
	}
	fail := func(code codes.Code) func() (string, error) {
		return func() (string, error) { return "", status.Error(code, "no") }
	}
	for name, tc := range map[string]struct {
		first   func() string
		answers []func() (string, error)
		// Each refresh comes within a tenth after this time since the one before.
		want []time.Duration
	}{
		"four fifths":  {func() string { return token(time.Now().Add(1000 * time.Second).Unix()) }, []func() (string, error){ok(500 * time.Second)}, []time.Duration{800 * time.Second, 400 * time.Second}},
		"no expiry":    {func() string { return token(0) }, []func() (string, error){ok(500 * time.Second)}, []time.Duration{6 * time.Hour, 400 * time.Second}},
		"not a jwt":    {func() string { return "opaque" }, []func() (string, error){fail(codes.Unimplemented)}, []time.Duration{6 * time.Hour, 6 * time.Hour}},
		"long life":    {func() string { return token(time.Now().Add(1000 * time.Hour).Unix()) }, []func() (string, error){ok(time.Hour)}, []time.Duration{12 * time.Hour}},
		"retry":        {func() string { return token(time.Now().Add(100 * time.Second).Unix()) }, []func() (string, error){fail(codes.Unavailable), ok(100 * time.Second)}, []time.Duration{80 * time.Second, 10 * time.Second, 80 * time.Second}},
		"already over": {func() string { return token(time.Now().Add(-time.Hour).Unix()) }, []func() (string, error){ok(100 * time.Second)}, []time.Duration{time.Second, 80 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &gateway{began: time.Now(), answers: tc.answers}
				s, err := identity.Open(identity.Config{Token: tc.first(), Secure: true}, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Hour)
				defer cancel()
				if err := s.Run(ctx, g); err != nil {
					t.Fatal(err)
				}
				if len(g.at) < len(tc.want) {
					t.Fatalf("refreshed at %v", g.at)
				}
				var last time.Duration
				for i, want := range tc.want {
					// A token's expiry is in whole seconds.
					if d := g.at[i] - last; d < want-time.Second || d > want+want/10+time.Second {
						t.Errorf("refresh %d after %v, want %v", i, d, want)
					}
					last = g.at[i]
				}
			})
		})
	}
}

// Looking at the file finds what a driver put there, and never goes back to an older token of our own.
func TestTheFileIsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		put := func(s string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("in-the-file")
		s, err := identity.Open(identity.Config{Token: "in-the-environment", TokenFile: file, Secure: true}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		sent := func() string {
			t.Helper()
			md, err := s.GetRequestMetadata(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return md["authorization"]
		}
		g := &gateway{began: time.Now(), answers: []func() (string, error){func() (string, error) { return "renewed", nil }}}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx, g); err != nil {
				t.Error(err)
			}
		})
		look := func(want string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := sent(); got != "Bearer "+want {
				t.Errorf("%s is sent, want %s", got, want)
			}
		}
		look("in-the-environment")
		put("two tokens")
		look("in-the-environment")
		put("replaced")
		look("replaced")
		time.Sleep(7 * time.Hour)
		look("renewed")
		if raw, err := os.ReadFile(file); err != nil || string(raw) != "renewed\n" {
			t.Errorf("kept %q, %v", raw, err)
		}
		cancel()
		running.Wait()
	})
}

// A file that is not ours to write keeps its token, and ours stays in memory.
func TestAFileOfOthersIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	old := token(time.Now().Add(-time.Hour).Unix())
	if err := os.WriteFile(target, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := identity.Open(identity.Config{TokenFile: link, Secure: true}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{began: time.Now(), answers: []func() (string, error){func() (string, error) { return old + "x", nil }}}
	for range 3 {
		if err := s.Bootstrap(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if raw, err := os.ReadFile(link); err != nil || string(raw) != old {
		t.Errorf("the file holds another token: %v", err)
	}
	if n := strings.Count(log.String(), "cannot be kept"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
	if strings.Contains(log.String(), old) {
		t.Error("a token is in the log")
	}
}

// Only an expired token is worth a renewal after the gateway refused it.
func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	alive, over := token(time.Now().Add(time.Hour).Unix()), token(time.Now().Add(-time.Hour).Unix())
	st, err := status.New(codes.Unauthenticated, "x").WithDetails(&errdetails.ErrorInfo{Reason: "SANDBOX_TOKEN_EXPIRED"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		token string
		cause error
		want  int
	}{
		"the gateway says expired":   {alive, fmt.Errorf("session: %w", st.Err()), 1},
		"our clock says expired":     {over, status.Error(codes.Unauthenticated, "invalid token"), 1},
		"bad for another reason":     {alive, status.Error(codes.Unauthenticated, "invalid token"), 0},
		"not refused":                {alive, errors.New("broken"), 0},
		"nothing there to be better": {"", st.Err(), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &gateway{began: time.Now(), answers: []func() (string, error){func() (string, error) { return "next", nil }}}
			s, err := identity.Open(identity.Config{Token: tc.token, Secure: true}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // In a moment only the first counts.
				s.Renew(t.Context(), g, tc.cause)
			}
			if len(g.at) != tc.want {
				t.Errorf("%d refreshes, want %d", len(g.at), tc.want)
			}
		})
	}
}

func TestOpenRefusesPlaintext(t *testing.T) {
	t.Parallel()
	for _, c := range []identity.Config{{Token: "t"}, {Secret: "s"}, {ServiceAccountFile: "f"}} {
		if _, err := identity.Open(c, slog.New(slog.DiscardHandler)); !errors.Is(err, identity.ErrInsecure) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := identity.Open(identity.Config{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

func TestOpenChecksTheFile(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"empty": " \n", "two": "a b", "huge": string(make([]byte, 70<<10))} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Open(identity.Config{TokenFile: file, Secure: true}, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
