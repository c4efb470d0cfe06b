// Command profiled is the gateway with a profiler around it: the same composition as sallyport-gateway, whose
// processor profile of its whole life, and memory and goroutines at each SIGUSR1, are written into the folder that
// BENCH_PROFILE names. It takes the gateway's own flags.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
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
	cpu, err := os.Create(path(dir, "cpu"))
	if err != nil {
		g.Close()
		return err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		g.Close()
		return errors.Join(err, cpu.Close())
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			if err := errors.Join(snapshot(dir, "goroutine"), snapshot(dir, "heap")); err != nil {
				logger.Error("write profiles", "error", err)
			}
		}
	}()
	err = g.Run(ctx)
	pprof.StopCPUProfile()
	return errors.Join(err, cpu.Close())
}

// path is where a profile of this process goes; whoever asked for it waits for the heap's, which is written last.
func path(dir, name string) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", name, os.Getpid()))
}

// snapshot writes a profile under its name once it is whole.
func snapshot(dir, name string) error {
	runtime.GC()
	f, err := os.CreateTemp(dir, ".snapshot-*")
	if err != nil {
		return err
	}
	err = errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path(dir, name))
}
