//go:build !linux

package listener

import "errors"

// waits: see ready_linux.go. Other systems read the first byte alone.
const waits = false

var errWouldBlock = errors.New("nothing to read yet")

func readNow(uintptr, []byte) (int, error) { return 0, errWouldBlock }
