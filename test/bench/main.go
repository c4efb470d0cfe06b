// Command bench measures the gateway beside its limit: a bare gRPC server that answers the same bytes and, for
// commands, passes them over one raw relay. Every row of the table of docs/benchmarks.md is one function here. The
// servers run as processes of their own, so that what they use is told apart from what the measuring client uses.
// Nothing here tests behaviour; it fails only if a call fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// row is one family of lines that are measured together.
type row struct {
	name  string
	about string
	run   func(ctx context.Context, b *bench) ([]line, error)
}

func rows() []row {
	return slices.Concat(unaryRows(), createRows(), execRows(), sessionRows(), startRows(), floodRows())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := dispatch(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == driverCommand {
		return serveDriver(ctx, args[1:], os.Stderr)
	}
	return run(ctx, args, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("row", "", "rows to measure, separated by commas; default all")
	asJSON := flags.Bool("json", false, "print JSON")
	list := flags.Bool("list", false, "list the rows and end")
	o := options{}
	flags.BoolVar(&o.quick, "quick", false, "shorter windows, fewer rounds and fewer objects: to try out, not to quote")
	flags.StringVar(&o.profile, "profile", "", "folder for processor and heap profiles of each gateway that is started")
	flags.StringVar(&o.only, "side", "", "measure only \"limit\" or \"ours\", for profiling")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*names)
	if err != nil {
		return err
	}
	if *list {
		for _, r := range chosen {
			fmt.Fprintf(out, "%-16s %s\n", r.name, r.about)
		}
		return nil
	}
	b, err := newBench(ctx, o, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	report := newReport(o, b.revision)
	for _, r := range chosen {
		fmt.Fprintf(progress, "%s %-16s %s\n", time.Now().Format(time.TimeOnly), r.name, r.about)
		lines, err := r.run(ctx, b)
		if err != nil {
			return fmt.Errorf("row %s: %w", r.name, err)
		}
		for i := range lines {
			lines[i].Row = r.name
		}
		report.Lines = append(report.Lines, lines...)
	}
	if *asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	return report.print(out)
}

func choose(names string) ([]row, error) {
	all := rows()
	if names == "" {
		return all, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no row %q; -list names them", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
