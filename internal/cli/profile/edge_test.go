package profile_test

import (
	"os"
	"path/filepath"
	"testing"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

func TestEdgeToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := profile.At(dir, "")
	if _, err := r.LoadEdgeToken("gw"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("none yet: %v", err)
	}
	// An older client's file is read, and gone with the next login.
	old := filepath.Join(dir, "gateways", "gw", "cf_token")
	if err := os.MkdirAll(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, []byte(" old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := r.LoadEdgeToken("gw"); err != nil || got != "old" {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.SaveEdgeToken("gw", "new"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.LoadEdgeToken("gw"); err != nil || got != "new" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the older file is left")
	}
	if info, err := os.Stat(filepath.Join(filepath.Dir(old), "edge_token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, want := range []bool{true, false} {
		if had, err := r.DeleteEdgeToken("gw"); err != nil || had != want {
			t.Errorf("delete: %t, %v", had, err)
		}
	}
	if err := r.SaveEdgeToken("../x", "t"); err == nil {
		t.Error("a name that leads elsewhere was accepted")
	}
}
