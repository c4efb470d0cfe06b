package sandboxtoken

import (
	"io/fs"
	"syscall"
	"time"
)

// appeared is when a file came to be where it is: copying can bring an older time of modification along, but not of
// the change of the inode.
func appeared(info fs.FileInfo) time.Time {
	at := info.ModTime()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if changed := time.Unix(stat.Ctim.Unix()); changed.After(at) {
			return changed
		}
	}
	return at
}
