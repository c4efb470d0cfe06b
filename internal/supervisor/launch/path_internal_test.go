package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLookPath(t *testing.T) {
	t.Parallel()
	closed, plain, good := t.TempDir(), t.TempDir(), t.TempDir()
	for dir, mode := range map[string]os.FileMode{plain: 0o600, good: 0o700} {
		if err := os.WriteFile(filepath.Join(dir, "tool"), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) })
	for name, tc := range map[string]struct {
		path string
		err  error
	}{
		"closed folder is passed over": {closed + ":" + good, nil},
		"only a closed folder":         {closed, ErrNotFound},
		"a file that cannot run":       {plain, ErrNotExecutable},
		"a later one can":              {plain + ":" + good, nil},
		"relative entries are ignored": {".:", ErrNotFound},
	} {
		if _, err := lookPath("tool", "/", tc.path); !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", name, err, tc.err)
		}
	}
}
