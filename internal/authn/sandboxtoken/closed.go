package sandboxtoken

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// closedFile refuses a private key that others can read or that anybody but its owner can change. A group may read
// it: that is how Kubernetes gives a secret to a container that does not run as root.
func closedFile(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o037 != 0 {
		return fmt.Errorf("%s is open to other users (mode %#o); run chmod g-wx,o-rwx on it", path, mode)
	}
	return nil
}

// closedDir refuses a directory of keys that others can read or that anybody but its owner can change. A sticky one
// passes, as the volume of a Kubernetes secret is: nobody can replace another user's file there.
func closedDir(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); !shared(info) && mode&0o027 != 0 {
		return fmt.Errorf("%s is open to other users (mode %#o); run chmod g-w,o-rwx on it", path, mode)
	}
	return nil
}

// shared tells that other users may put files into the directory.
func shared(dir fs.FileInfo) bool {
	return dir.Mode()&fs.ModeSticky != 0 && dir.Mode().Perm()&0o022 != 0
}

// trustedOwner tells whether a file is root's or ours.
func trustedOwner(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (stat.Uid == 0 || int(stat.Uid) == os.Geteuid())
}

// giveToOwner makes a file that root wrote belong to the owner of its directory, so that a gateway that does not run
// as root can read a key that root made for it.
func giveToOwner(dir string, file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return nil
	}
	return file.Chown(int(stat.Uid), int(stat.Gid))
}
