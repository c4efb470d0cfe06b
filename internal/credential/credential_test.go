package credential_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"driver://credentials/github":                      "github",
		"driver://credentials/A.b_c-9":                     "A.b_c-9",
		"driver://credentials/" + strings.Repeat("x", 128): strings.Repeat("x", 128),
	} {
		ref, is, err := credential.Parse(value)
		if err != nil || !is || ref.Name != want || ref.String() != value {
			t.Errorf("%q: %v %v %v", value, ref, is, err)
		}
	}
	for _, value := range []string{
		"", "secret", "driver:/credentials/x", "x driver://credentials/x", "driver:", "https://x/driver://credentials/y", "driver//",
	} {
		if _, is, err := credential.Parse(value); is || err != nil {
			t.Errorf("literal %q: %v %v", value, is, err)
		}
	}
	for _, value := range []string{
		"driver://", "driver://credentials/", "driver://credentials/a/b", "driver://credentials/a b", "driver://other/x",
		" driver://credentials/x", "driver://credentials/x ", "driver://credentials/x\n", "DRIVER://credentials/x",
		"driver://Credentials/x", "driver://credentials/" + strings.Repeat("x", 129), "driver://s3cr3t-canary",
	} {
		_, is, err := credential.Parse(value)
		if is || !fault.Is(err, fault.InvalidArgument) || strings.Contains(err.Error(), "canary") {
			t.Errorf("malformed %q: %v %v", value, is, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("driver://credentials/x")
	f.Add(" DRIVER://")
	f.Fuzz(func(t *testing.T, value string) {
		ref, is, err := credential.Parse(value)
		if is && (err != nil || ref.String() != value || !credentials.ValidName(ref.Name)) {
			t.Fatalf("%q: %v %v", value, ref, err)
		}
		if !is && err == nil && strings.HasPrefix(value, "driver://") {
			t.Fatalf("%q passes as a literal", value)
		}
	})
}

// fake is a driver in this process whose answers a test sets by name.
type fake struct {
	mu     sync.Mutex
	calls  map[string]int
	answer map[string]func(context.Context, int) (credentials.Token, error)
}

func newFake() *fake {
	return &fake{calls: map[string]int{}, answer: map[string]func(context.Context, int) (credentials.Token, error){}}
}

func (f *fake) set(name string, fn func(context.Context, int) (credentials.Token, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer[name] = fn
}

func (f *fake) count(name string) int { f.mu.Lock(); defer f.mu.Unlock(); return f.calls[name] }

func (f *fake) Resolve(ctx context.Context, name string) (credentials.Token, error) {
	f.mu.Lock()
	f.calls[name]++
	n, fn := f.calls[name], f.answer[name]
	f.mu.Unlock()
	if fn == nil {
		return credentials.Token{}, refusal(codes.NotFound, "not configured")
	}
	return fn(ctx, n)
}

func (f *fake) List(context.Context) ([]credentials.Info, error) {
	return []credentials.Info{{Name: "a"}}, nil
}

func refusal(code codes.Code, text string) error {
	return fault.Wrap(&driver.Refusal{Code: code, Message: text}, driver.KindOf(code), driver.ReasonRefused, "%s", text)
}

// lasting answers with a new value each time, living for d; 0 means for ever.
func lasting(d time.Duration) func(context.Context, int) (credentials.Token, error) {
	return func(_ context.Context, n int) (credentials.Token, error) {
		t := credentials.Token{Value: fmt.Sprintf("value-%d", n), Type: "bearer"}
		if d > 0 {
			t.Expires = time.Now().Add(d)
		}
		return t, nil
	}
}

func setup(t *testing.T) (*fake, *credential.Resolver) {
	t.Helper()
	f := newFake()
	r := credential.NewResolver(credential.Options{Driver: f, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(r.Close)
	return f, r
}

func want(t *testing.T, r *credential.Resolver, name, value string) {
	t.Helper()
	tok, err := r.Resolve(t.Context(), name)
	if err != nil {
		t.Fatalf("resolve %s: %v", name, err)
	}
	if tok.Value != value {
		t.Fatalf("resolve %s: got %s, want %s", name, tok.Value, value)
	}
}

func wantReason(t *testing.T, r *credential.Resolver, name, reason string) *fault.Error {
	t.Helper()
	_, err := r.Resolve(t.Context(), name)
	f := fault.From(err)
	if err == nil || f.Reason != reason || f.Next == "" || !strings.Contains(f.Message, name) {
		t.Fatalf("resolve %s: got %v (%s), want %s", name, err, f.Reason, reason)
	}
	return f
}

func TestParallelCallersAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", func(ctx context.Context, n int) (credentials.Token, error) {
			time.Sleep(time.Second)
			return lasting(time.Hour)(ctx, n)
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if tok, err := r.Resolve(t.Context(), "a"); err != nil || tok.Value != "value-1" {
					t.Errorf("%v %v", tok, err)
				}
			})
		}
		wg.Wait()
		if n := f.count("a"); n != 1 {
			t.Errorf("driver asked %d times", n)
		}
	})
}

func TestMarginBeforeExpiry(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		left  time.Duration
		value string
	}{{31 * time.Second, "value-1"}, {29 * time.Second, "value-2"}} {
		synctest.Test(t, func(t *testing.T) {
			f, r := setup(t)
			f.set("a", lasting(time.Hour))
			want(t, r, "a", "value-1")
			time.Sleep(time.Hour - tc.left)
			want(t, r, "a", tc.value)
		})
	}
}

func TestRefreshAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(time.Hour))
		want(t, r, "a", "value-1")
		time.Sleep(44 * time.Minute)
		want(t, r, "a", "value-1")
		synctest.Wait()
		if n := f.count("a"); n != 1 {
			t.Fatalf("asked %d times before three quarters", n)
		}
		time.Sleep(2 * time.Minute)
		want(t, r, "a", "value-1") // The caller does not wait.
		synctest.Wait()
		want(t, r, "a", "value-2")
		time.Sleep(3 * time.Hour) // Unused: nobody asks on its behalf.
		if n := f.count("a"); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestValueWithoutExpiryIsAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(0))
		want(t, r, "a", "value-1")
		time.Sleep(3 * time.Minute)
		want(t, r, "a", "value-1")
		time.Sleep(2 * time.Minute)
		want(t, r, "a", "value-2")
		// A driver that is away does not take a value that does not expire with it.
		f.set("a", func(context.Context, int) (credentials.Token, error) { return credentials.Token{}, errors.New("away") })
		time.Sleep(24 * time.Hour)
		want(t, r, "a", "value-2")
	})
}

func TestStaleWhileDriverFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(time.Hour))
		want(t, r, "a", "value-1")
		f.set("a", func(context.Context, int) (credentials.Token, error) {
			return credentials.Token{}, refusal(codes.Unavailable, "identity provider is away")
		})
		time.Sleep(time.Hour - 10*time.Second)
		want(t, r, "a", "value-1")
		time.Sleep(11 * time.Second)
		e := wantReason(t, r, "a", credential.ReasonFetchFailed)
		if !strings.Contains(e.Message, "identity provider is away") {
			t.Errorf("message %q does not say why", e.Message)
		}
		if tok, ok := r.Last("a"); !ok || tok.Value != "value-1" {
			t.Errorf("last %v %v", tok, ok)
		}
	})
}

func TestStaleWhileDriverHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(time.Hour))
		want(t, r, "a", "value-1")
		f.set("a", func(ctx context.Context, _ int) (credentials.Token, error) {
			<-ctx.Done()
			return credentials.Token{}, ctx.Err()
		})
		time.Sleep(time.Hour - 20*time.Second)
		started := time.Now()
		want(t, r, "a", "value-1")
		if took := time.Since(started); took > 5*time.Second {
			t.Errorf("waited %s although the old value is valid", took)
		}
	})
}

func TestRemovedCredentialIsNotServedStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(time.Hour))
		want(t, r, "a", "value-1")
		f.set("a", nil)
		time.Sleep(46 * time.Minute)
		want(t, r, "a", "value-1")
		synctest.Wait() // The refresh ahead finds it gone.
		wantReason(t, r, "a", credential.ReasonUnknown)
	})
}

func TestFailureIsCachedForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		for range 100 {
			wantReason(t, r, "a", credential.ReasonUnknown)
		}
		if n := f.count("a"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		f.set("a", lasting(time.Hour))
		time.Sleep(time.Second)
		want(t, r, "a", "value-2")
	})
}

func TestFailingRefreshIsPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", lasting(time.Hour))
		want(t, r, "a", "value-1")
		f.set("a", func(context.Context, int) (credentials.Token, error) {
			return credentials.Token{}, refusal(codes.Unavailable, "away")
		})
		time.Sleep(45 * time.Minute)
		for range 10 * 60 * 10 { // Ten minutes at ten calls a second.
			want(t, r, "a", "value-1")
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.count("a"); n < 10 || n > 30 {
			t.Errorf("asked %d times in ten minutes", n)
		}
	})
}

func TestCancelDisturbsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("a", func(ctx context.Context, n int) (credentials.Token, error) {
			select {
			case <-time.After(5 * time.Second):
				return lasting(time.Hour)(ctx, n)
			case <-ctx.Done():
				return credentials.Token{}, ctx.Err()
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { _, err := r.Resolve(ctx, "a"); first <- err }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() { _, err := r.Resolve(t.Context(), "a"); second <- err }()
		synctest.Wait()
		cancel()
		if err := <-first; !fault.Is(err, fault.Canceled) {
			t.Errorf("first: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("second: %v", err)
		}
		if n := f.count("a"); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestSlowCredentialDelaysNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		f.set("slow", func(ctx context.Context, _ int) (credentials.Token, error) {
			<-ctx.Done()
			return credentials.Token{}, ctx.Err()
		})
		f.set("quick", lasting(time.Hour))
		done := make(chan struct{})
		go func() { defer close(done); wantReason(t, r, "slow", credential.ReasonDriverUnavailable) }()
		synctest.Wait()
		started := time.Now()
		want(t, r, "quick", "value-1")
		if took := time.Since(started); took != 0 {
			t.Errorf("waited %s", took)
		}
		<-done
	})
}

func TestReasons(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, r := setup(t)
		down := fault.New(fault.Unavailable, driver.ReasonUnavailable, "credentials driver is unavailable at socket /s").WithNext("start it")
		for name, tc := range map[string]struct {
			answer func(context.Context, int) (credentials.Token, error)
			reason string
			kind   fault.Kind
		}{
			"down":    {func(context.Context, int) (credentials.Token, error) { return credentials.Token{}, down }, credential.ReasonDriverUnavailable, fault.Unavailable},
			"unknown": {nil, credential.ReasonUnknown, fault.FailedPrecondition},
			"denied": {func(context.Context, int) (credentials.Token, error) {
				return credentials.Token{}, refusal(codes.Unavailable, "401\n"+strings.Repeat("x", 1000))
			}, credential.ReasonFetchFailed, fault.Unavailable},
			"lied": {func(context.Context, int) (credentials.Token, error) {
				return credentials.Token{}, driver.InvalidAnswer("credentials", "ResolveCredential", "the token is empty")
			}, credential.ReasonFetchFailed, fault.Internal},
			"expired": {lasting(-time.Second), credential.ReasonFetchFailed, fault.Unavailable},
		} {
			if name == "expired" {
				tc.answer = func(context.Context, int) (credentials.Token, error) {
					return credentials.Token{Value: "x", Expires: time.Now()}, nil
				}
			}
			f.set(name, tc.answer)
			if e := wantReason(t, r, name, tc.reason); e.Kind != tc.kind || len(e.Message) > 500 || strings.Contains(e.Message, "\n") {
				t.Errorf("%s: kind %d, message %q", name, e.Kind, e.Message)
			}
		}
		none := credential.NewResolver(credential.Options{Logger: slog.New(slog.DiscardHandler)})
		defer none.Close()
		wantReason(t, none, "a", credential.ReasonNotConfigured)
		if _, err := none.List(t.Context()); fault.From(err).Reason != credential.ReasonNotConfigured || none.Configured() {
			t.Errorf("list: %v", err)
		}
		if infos, err := r.List(t.Context()); err != nil || len(infos) != 1 {
			t.Errorf("list: %v %v", infos, err)
		}
	})
}

func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := credential.NewResolver(credential.Options{Driver: f, Logger: slog.New(slog.DiscardHandler), MaxNames: 2})
		defer r.Close()
		for _, n := range []string{"a", "b", "c"} {
			f.set(n, lasting(time.Hour))
			want(t, r, n, "value-1")
			time.Sleep(time.Millisecond)
		}
		want(t, r, "b", "value-1")
		want(t, r, "a", "value-2") // Forgotten for c.
	})
}

func TestNoValueInLogs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var logs bytes.Buffer
		r := credential.NewResolver(credential.Options{Driver: f, Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		f.set("a", func(context.Context, int) (credentials.Token, error) {
			return credentials.Token{Value: "canary-4711", Expires: time.Now().Add(time.Minute)}, nil
		})
		want(t, r, "a", "canary-4711")
		f.set("a", func(context.Context, int) (credentials.Token, error) {
			return credentials.Token{}, refusal(codes.Unavailable, "away")
		})
		time.Sleep(50 * time.Second)
		want(t, r, "a", "canary-4711")
		r.Close()
		if !strings.Contains(logs.String(), "CREDENTIAL_FETCH_FAILED") || strings.Contains(logs.String(), "canary") {
			t.Errorf("log: %s", logs.String())
		}
	})
}

func BenchmarkResolveCached(b *testing.B) {
	f := newFake()
	f.set("a", lasting(time.Hour))
	r := credential.NewResolver(credential.Options{Driver: f, Logger: slog.New(slog.DiscardHandler)})
	defer r.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}
