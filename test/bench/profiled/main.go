// Command profiled is the gateway with a profiler around it: the same composition as sallyport-gateway, whose
// processor profile of its whole life, and its heap at the end, are written into the folder that BENCH_PROFILE
// names. It takes the gateway's own flags.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"

	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv("BENCH_PROFILE"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "profiled:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, dir string) error {
	cfg, err := config.Parse(args, os.LookupEnv)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	g, err := gateway.New(ctx, cfg, gateway.Options{Version: "profiled", Logger: logger})
	if err != nil {
		return err
	}
	cpu, err := os.Create(filepath.Join(dir, fmt.Sprintf("cpu-%d.pprof", os.Getpid())))
	if err != nil {
		g.Close()
		return err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		g.Close()
		return errors.Join(err, cpu.Close())
	}
	heap := make(chan error, 1)
	context.AfterFunc(ctx, func() { heap <- writeHeap(dir) })
	err = g.Run(ctx)
	pprof.StopCPUProfile()
	if ctx.Err() != nil {
		err = errors.Join(err, <-heap)
	}
	return errors.Join(err, cpu.Close())
}

// writeHeap is called when the gateway is told to stop, with its sessions still there.
func writeHeap(dir string) error {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("heap-%d.pprof", os.Getpid())))
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}
