package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/store/transfer"
)

const databaseUsage = `Usage:
  sallyport-gateway database check [flags]
      Look at the PostgreSQL database of the settings without changing it, while a gateway works on it or not: versions,
      owner, privileges, how long an answer takes. Exit status 0 when a gateway can work on it, else 1. The flags are
      those of the gateway, of which --db-url alone is enough.
  sallyport-gateway database copy --from URL --to URL [--from-password-file FILE] [--to-password-file FILE]
      Copy everything from one database to another one, which must be empty, and compare. No gateway may run on either.
      URL is sqlite:PATH or postgres://USER@HOST/DATABASE. Keys and the audit log are not in a database: they stay in the
      folder that --state-dir names.
`

func databaseCommand(ctx context.Context, args []string, p process) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "check":
		return databaseCheck(ctx, args, p)
	case "copy":
		return databaseCopy(ctx, args, p)
	case "-h", "--help", "help":
		fmt.Fprint(p.stdout, databaseUsage)
		return 0
	case "":
		return p.fail(exitUsage, errors.New("database needs one of check and copy"))
	}
	return p.fail(exitUsage, fmt.Errorf("database has no command %q; it has check and copy", name))
}

func databaseCheck(ctx context.Context, args []string, p process) int {
	c, problems, err := config.Check(args, p.env)
	if err != nil {
		fmt.Fprint(p.stdout, databaseUsage)
		return 0
	}
	if len(problems) > 0 && !config.IsPostgres(c.DatabaseURL) {
		return p.fail(exitUsage, problems)
	}
	if !config.IsPostgres(c.DatabaseURL) {
		return p.fail(exitUsage, errors.New("the settings name an SQLite file, which is checked whenever a gateway opens it; name a PostgreSQL database with --db-url"))
	}
	r, err := postgres.Check(ctx, c.DatabaseURL, postgres.Options{PasswordFile: c.Database.PasswordFile})
	if err != nil {
		return p.fail(1, err)
	}
	printReport(p.stdout, r)
	if len(r.Problems) > 0 {
		return 1
	}
	return 0
}

func printReport(w io.Writer, r *postgres.Report) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("database", "%s", r.Database)
	line("schema", "%s", r.Schema)
	line("server", "PostgreSQL %s, answers in %s", r.Server, r.RoundTrip.Round(time.Microsecond))
	line("connection", "%s", r.Connection)
	switch {
	case r.SchemaVersion == 0:
		line("version", "no tables yet; the first gateway makes version %d", r.KnownVersion)
	case r.SchemaVersion == r.KnownVersion:
		line("version", "%d, up to date", r.SchemaVersion)
	default:
		line("version", "%d, this program knows %d; programs from version %d on may work on it", r.SchemaVersion, r.KnownVersion, r.CompatibleFrom)
	}
	owner := r.Owner
	if owner == "" {
		owner = "nobody"
	}
	line("owner", "%s", owner)
	if !r.LastTaken.IsZero() {
		line("last taken", "by %q at %s", r.LastOwner, r.LastTaken.UTC().Format(time.RFC3339))
		line("holds", "%d objects, revision %d", r.Objects, r.Revision)
	}
	for _, problem := range r.Problems {
		line("problem", "%s", problem)
	}
}

func databaseCopy(ctx context.Context, args []string, p process) int {
	flags := flag.NewFlagSet("database copy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	from, to := flags.String("from", "", ""), flags.String("to", "", "")
	fromPassword, toPassword := flags.String("from-password-file", "", ""), flags.String("to-password-file", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.stdout, databaseUsage)
		return 0
	case err != nil:
		return p.fail(exitUsage, fmt.Errorf("database copy: %w", err))
	case flags.NArg() > 0:
		return p.fail(exitUsage, fmt.Errorf("database copy: unexpected argument %q", flags.Arg(0)))
	case *from == "" || *to == "":
		return p.fail(exitUsage, errors.New("database copy needs --from URL and --to URL"))
	}
	report, err := copyDatabase(ctx, end{*from, *fromPassword}, end{*to, *toPassword})
	if err != nil {
		return p.fail(1, err)
	}
	for _, kind := range slices.Sorted(maps.Keys(report.Objects)) {
		fmt.Fprintf(p.stdout, "%-20s %d\n", kind, report.Objects[kind])
	}
	fmt.Fprintf(p.stdout, "%d objects at revision %d copied and compared\n", report.Total, report.Revision)
	fmt.Fprintln(p.stdout, "Keys and the audit log stay where they are: start the gateway with --state-dir naming the folder that it used so far.")
	return 0
}

// end is one of the two databases of a copy.
type end struct{ url, passwordFile string }

func copyDatabase(ctx context.Context, from, to end) (report *transfer.Report, err error) {
	source, err := from.open(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("the source: %w", err)
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := to.open(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	return transfer.Copy(ctx, source, target)
}

// open opens a database; a source must be there. It does not wait for a gateway to end.
func (e end) open(ctx context.Context, source bool) (store.Backend, error) {
	if config.IsPostgres(e.url) {
		return postgres.Open(ctx, e.url, postgres.Options{Name: "database copy", PasswordFile: e.passwordFile, LeaseWait: -1})
	}
	url := e.url
	if source && strings.HasPrefix(url, "sqlite:") && !strings.Contains(url, "mode=") {
		join := "?"
		if strings.Contains(url, "?") {
			join = "&"
		}
		url += join + "mode=rw"
	}
	return sqlite.Open(ctx, url)
}
