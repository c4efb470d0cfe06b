package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// options are the harness's flags.
type options struct {
	quick   bool
	profile string
	only    string
}

// bench is one run: its programs, its folder, and the worlds that several rows share.
type bench struct {
	options
	dir      string
	revision string
	progress io.Writer
	issuer   *issuer
	shared   map[int]*world
	serial   int
}

func newBench(ctx context.Context, o options, progress io.Writer) (*bench, error) {
	if o.only != "" && o.only != "limit" && o.only != "ours" {
		return nil, fmt.Errorf("-side must be limit or ours, got %q", o.only)
	}
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, progress: progress, shared: map[int]*world{}}
	if o.profile != "" {
		b.profile, err = filepath.Abs(o.profile)
		err = errors.Join(err, os.MkdirAll(o.profile, 0o700))
	}
	if err == nil {
		err = b.build(ctx)
	}
	if err == nil {
		b.issuer, err = newIssuer()
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// build makes the programs under measurement, as make build does.
func (b *bench) build(ctx context.Context) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	packages := []string{"./cmd/sallyport-gateway", "./cmd/sallyport-supervisor", "./test/bench/limit"}
	if b.profile != "" {
		packages = append(packages, "./test/bench/profiled")
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", b.dir + "/"}, packages...)...)
	cmd.Dir = strings.TrimSpace(string(root))
	b.revision = revisionOf(ctx, cmd.Dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// revisionOf names the sources, so that figures can be told apart; a tree without history has no name.
func revisionOf(ctx context.Context, root string) string {
	cmd := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) close() error {
	var errs []error
	for _, w := range b.shared {
		errs = append(errs, w.close())
	}
	if b.issuer != nil {
		errs = append(errs, b.issuer.close())
	}
	err := errors.Join(errs...)
	if err != nil {
		// The children's logs tell why.
		return fmt.Errorf("%w\nlogs are kept in %s", err, b.dir)
	}
	return os.RemoveAll(b.dir)
}

func (b *bench) skips(i int) bool { return b.only == "limit" && i > 0 || b.only == "ours" && i == 0 }

// pick returns full, or short in a quick run.
func pick[T any](b *bench, full, short T) T {
	if b.quick {
		return short
	}
	return full
}

func (b *bench) rounds() int           { return pick(b, 5, 2) }
func (b *bench) window() time.Duration { return pick(b, 2*time.Second, 500*time.Millisecond) }

// world returns the shared world with this many stored sandboxes, made when it is first asked for.
func (b *bench) world(ctx context.Context, stored int) (*world, error) {
	if w := b.shared[stored]; w != nil {
		return w, nil
	}
	w, err := newWorld(ctx, b, worldOptions{stored: stored})
	if err != nil {
		return nil, err
	}
	b.shared[stored] = w
	return w, w.comeToRest(ctx)
}

// pause waits for a measured time to pass; it orders nothing.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
