//go:build !linux

package nodump

// Set does nothing here: the platform is for development, and has no such flag.
func Set() error { return nil }
