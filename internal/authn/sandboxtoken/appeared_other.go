//go:build !linux

package sandboxtoken

import (
	"io/fs"
	"time"
)

// appeared is when a file was written, as far as this system tells.
func appeared(info fs.FileInfo) time.Time { return info.ModTime() }
