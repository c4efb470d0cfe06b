//go:build linux

package driverkit

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// podFolder is a folder as a pod's containers share one, which takes a mount.
func podFolder(t *testing.T, mode os.FileMode) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT PROVEN: only root can mount")
	}
	dir, err := os.MkdirTemp("", "dkp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("NOT PROVEN: mounting does not work here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSharedFolder(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"open": 0o777, "group": 0o777 | os.ModeSetgid, "group only": 0o770 | os.ModeSetgid} {
		t.Run(name, func(t *testing.T) {
			dir := podFolder(t, mode)
			path := filepath.Join(dir, "compute.sock")
			logger := slog.New(slog.DiscardHandler)
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			if _, err := Listen(t.Context(), path, nil, logger); err == nil || !strings.Contains(err.Error(), "writable by others") {
				t.Errorf("outside of a pod: %v", err)
			}
			t.Setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
			if _, err := Listen(t.Context(), path, []uint32{1}, logger); err == nil || !strings.Contains(err.Error(), "choose a path below it") {
				t.Errorf("open to other users: %v", err)
			}
			lis, err := Listen(t.Context(), path, nil, logger)
			if err != nil {
				t.Fatal(err)
			}
			defer lis.Close()
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v %v", info, err)
			}
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			// A folder of the driver's own below it is as closed as anywhere.
			own, err := Listen(t.Context(), filepath.Join(dir, "compute", "driver.sock"), nil, logger)
			if err != nil {
				t.Fatal(err)
			}
			own.Close()
			if info, err := os.Stat(filepath.Join(dir, "compute")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("folder: %v %v", info, err)
			}
		})
	}
}

// TestSharedFolderIsAMount keeps an open folder that is nobody's mount refused in a pod too.
func TestSharedFolderIsAMount(t *testing.T) {
	dir, err := os.MkdirTemp("", "dkp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := checkDir(dir, true); err == nil || !strings.Contains(err.Error(), "writable by others") {
		t.Errorf("got %v", err)
	}
}
