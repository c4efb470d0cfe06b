//go:build !unix

package cli

import "context"

// followSize does nothing where no signal tells of a new size.
func followSize(context.Context, int, func(cols, rows uint32)) func() { return func() {} }
