//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// followSize tells each new size of a terminal until the returned function is called.
func followSize(ctx context.Context, fd int, tell func(cols, rows uint32)) func() {
	ctx, cancel := context.WithCancel(ctx)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	var idle sync.WaitGroup
	idle.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
				tell(terminalSize(fd))
			}
		}
	})
	return func() {
		signal.Stop(resized)
		cancel()
		idle.Wait()
	}
}
