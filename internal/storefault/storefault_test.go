package storefault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

func TestOf(t *testing.T) {
	t.Parallel()
	own := fault.New(fault.InvalidArgument, "OWN", "the service's own")
	disk := errors.New("disk full")
	for _, c := range []struct {
		name   string
		err    error
		others []error
		kind   fault.Kind
		reason string
	}{
		{"a fault", own, nil, fault.InvalidArgument, "OWN"},
		{"a fault within", fmt.Errorf("write: %w", own), nil, fault.InvalidArgument, "OWN"},
		{"a fault about a conflict", fault.Wrap(store.ErrConflict, fault.NotFound, "OWN", "gone"), nil, fault.NotFound, "OWN"},
		{"another writer", fmt.Errorf("write: %w", store.ErrConflict), nil, fault.Aborted, "CHANGED"},
		{"another writer's deletion", store.ErrNotFound, []error{store.ErrNotFound, store.ErrExists}, fault.Aborted, "CHANGED"},
		{"a deletion that is no conflict", store.ErrNotFound, nil, fault.Unavailable, storefault.ReasonUnavailable},
		{"no connection", fmt.Errorf("write: %w (hunter2)", store.ErrUnreachable), nil, fault.Unavailable, storefault.ReasonUnreachable},
		{"too slow", store.ErrOverloaded, nil, fault.Unavailable, storefault.ReasonOverloaded},
		{"full", store.ErrFull, nil, fault.Unavailable, storefault.ReasonFull},
		{"a standby", store.ErrReadOnly, nil, fault.Unavailable, storefault.ReasonReadOnly},
		{"a cut commit", errors.Join(store.ErrUnreachable, store.ErrUnsettled), nil, fault.Unavailable, storefault.ReasonUnsettled},
		{"another owner", store.ErrLeaseLost, nil, fault.Unavailable, storefault.ReasonLeaseLost},
		{"lost writes", store.ErrDiverged, nil, fault.Unavailable, storefault.ReasonDiverged},
		{"the disk", disk, []error{store.ErrNotFound}, fault.Unavailable, storefault.ReasonUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := storefault.Of(c.err, fault.New(fault.Aborted, "CHANGED", "changed").WithNext("read again"), c.others...)
			f := fault.From(got)
			if f.Kind != c.kind || f.Reason != c.reason {
				t.Errorf("got %d %s, want %d %s", f.Kind, f.Reason, c.kind, c.reason)
			}
			if c.reason != "OWN" && (f.Next == "" || !errors.Is(got, c.err)) {
				t.Errorf("%+v has no next step or lost its cause", f)
			}
			if strings.Contains(f.Message+f.Next, "hunter2") {
				t.Errorf("%+v tells the database's own words", f)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{store.ErrClosed, "store is closed"},
		{fmt.Errorf("ping: %w (hunter2)", store.ErrReadOnly), "the database takes no writes"},
		{errors.New("hunter2"), "the store cannot take writes"},
	} {
		err := storefault.Probe(func(context.Context) error { return c.err })(t.Context())
		got := ""
		if f, ok := errors.AsType[*fault.Error](err); ok {
			got = f.Message
		} else if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
