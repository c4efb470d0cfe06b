package workspace_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/workspace"
)

// A compute driver may keep a namespace for a workspace. While it cannot be asked to remove it, the workspace must neither
// go, or the namespace would stay for ever, nor take anything new, which the removal would take along.
func TestDeleteWaitsForTheDriver(t *testing.T) {
	t.Parallel()
	path := "sqlite:" + filepath.Join(t.TempDir(), "w.db")
	f := open(t, path, authz.Workspaces)
	for _, name := range []string{"w", "v"} {
		if _, err := f.Create(root(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.platform.answer(fault.New(fault.Unavailable, "DRIVER_UNAVAILABLE", "the compute driver is not connected").WithNext("start it"))
	for range 2 {
		if _, err := f.Delete(root(), "w"); !fault.Is(err, fault.Unavailable) || f.left.Load() != 0 {
			t.Fatalf("without a driver: %v, told %d times", err, f.left.Load())
		}
	}
	if err := f.Check("w"); fault.From(err).Reason != workspace.ReasonLeaving {
		t.Errorf("used meanwhile: %v", err)
	}
	if _, err := f.AddMember(root(), "w", "alice", authz.User); fault.From(err).Reason != workspace.ReasonLeaving {
		t.Errorf("a member added meanwhile: %v", err)
	}
	if _, err := f.Create(root(), "w", nil); !fault.Is(err, fault.AlreadyExists) {
		t.Errorf("created meanwhile: %v", err)
	}
	if err := f.Check("v"); err != nil {
		t.Errorf("another one, meanwhile: %v", err)
	}
	f.platform.answer(nil)
	if deleted, err := f.Delete(root(), "w"); !deleted || err != nil || f.left.Load() != 1 {
		t.Errorf("with the driver back: %t, %v, told %d times", deleted, err, f.left.Load())
	}
	if want := []string{"w", "w", "w"}; !slices.Equal(f.platform.asked, want) {
		t.Errorf("the driver was asked for %v, want %v", f.platform.asked, want)
	}
}

// The gateway may end between the mark and the end of a deletion.
func TestDeletionsAreFinishedAfterARestart(t *testing.T) {
	t.Parallel()
	path := "sqlite:" + filepath.Join(t.TempDir(), "w.db")
	f := open(t, path, authz.Workspaces)
	if _, err := f.Create(root(), "w", nil); err != nil {
		t.Fatal(err)
	}
	f.platform.answer(fault.New(fault.Unavailable, "DRIVER_UNAVAILABLE", "the compute driver is not connected"))
	if _, err := f.Delete(root(), "w"); err == nil {
		t.Fatal("deleted without the driver")
	}
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, authz.Workspaces)
	if err := f.Check("w"); fault.From(err).Reason != workspace.ReasonLeaving {
		t.Fatalf("after the restart: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	gone := f.store.Watch(f.store.Revision())
	defer gone.Close()
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	for f.Check("w") == nil || fault.From(f.Check("w")).Reason == workspace.ReasonLeaving {
		if _, err := gone.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run ended with %v", err)
	}
	if err := f.Check("w"); !fault.Is(err, fault.NotFound) {
		t.Errorf("at the end: %v", err)
	}
}
