//go:build !linux

package gateway

// forgetProgram does nothing where it is not known how.
func forgetProgram() error { return nil }
