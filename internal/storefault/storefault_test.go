package storefault_test

import (
	"errors"
	"fmt"
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
		})
	}
}
