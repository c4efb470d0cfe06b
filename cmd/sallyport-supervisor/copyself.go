package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sallyport.dev/sallyport/internal/privatefile"
)

// copyArgument makes this program copy itself and end, as the first container of a pod does to bring it to the second.
const copyArgument = "copy-self"

// copySelf copies the running program, not what may lie in its place by now, to a file, or into a folder under the
// name by which it was called. The copy is there whole or not at all, and anybody may run it.
func copySelf(dest, calledAs string) (string, error) {
	if dest == "" {
		return "", errors.New("copy-self needs a file or a folder")
	}
	info, err := os.Stat(dest) //nolint:gosec // reason: whoever starts the program names the place
	switch {
	case err == nil && info.IsDir(), errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(dest, "/"):
		dest = filepath.Join(dest, filepath.Base(calledAs))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("copy the supervisor: %w", err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("read the running program: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil { //nolint:gosec // reason: others run what is in it
		return "", fmt.Errorf("copy the supervisor: %w", err)
	}
	err = privatefile.Replace(dest, program, func(f *os.File) error { return f.Chmod(0o755) })
	if err != nil {
		return "", fmt.Errorf("copy the supervisor: %w", err)
	}
	return dest, nil
}
