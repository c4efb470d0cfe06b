package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// logView is a line of a sandbox's log.
type logView struct {
	Time    string            `json:"time"`
	Source  string            `json:"source,omitempty"`
	Level   string            `json:"level,omitempty"`
	Target  string            `json:"target,omitempty"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

type logFlags struct {
	lines        uint32
	tail         bool
	since, level string
	sources      []string
}

func (a *app) logsCommand() *cobra.Command {
	var f logFlags
	c := &cobra.Command{
		Use: "logs [NAME]", Aliases: []string{"lg"}, Short: "Show the log of a sandbox", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			since, err := sinceMillis(f.since, time.Now())
			if err != nil {
				return err
			}
			if slices.Contains(f.sources, "all") {
				f.sources = nil
			}
			return a.withSession(c.Context(), func(s *session) error {
				sb, err := a.getSandbox(c.Context(), s, firstArg(args))
				if err != nil {
					return err
				}
				if f.tail {
					return a.tailLogs(c.Context(), s, sb.GetMetadata().GetId(), f, since)
				}
				return a.showLogs(c.Context(), s, sb.GetMetadata().GetId(), f, since)
			})
		},
	}
	fl := c.Flags()
	fl.Uint32VarP(&f.lines, "lines", "n", 200, "show at most so many lines")
	fl.BoolVar(&f.tail, "tail", false, "go on with new lines")
	fl.BoolVarP(&f.tail, "follow", "f", false, "the same as --tail")
	fl.StringVar(&f.since, "since", "", "only lines of the last time, as 30s, 5m or 1h")
	fl.StringArrayVar(&f.sources, "source", nil, "only lines of a source, as gateway or sandbox; repeatable")
	fl.StringVar(&f.level, "level", "", "only lines of a level or above")
	return c
}

// sinceMillis turns "5m" into the milliseconds of the Unix epoch so long before now; 0 for none.
func sinceMillis(s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
	if !ok || err != nil || n < 0 || n > math.MaxInt64/int64(unit) {
		return 0, usagef("invalid --since %q: use a number with s, m or h", s)
	}
	return max(1, now.Add(-time.Duration(n)*unit).UnixMilli()), nil
}

func (a *app) showLogs(ctx context.Context, s *session, id string, f logFlags, since int64) error {
	resp, err := s.shell.GetSandboxLogs(ctx, &openshellpb.GetSandboxLogsRequest{
		SandboxId: id, Lines: f.lines, SinceMs: since, Sources: f.sources, MinLevel: f.level, Workspace: a.flags.workspace,
	})
	if err != nil {
		return err
	}
	if a.out.Structured() {
		views := make([]logView, 0, len(resp.GetLogs()))
		for _, l := range resp.GetLogs() {
			views = append(views, viewLog(l))
		}
		return a.out.Value(views)
	}
	for _, l := range resp.GetLogs() {
		fmt.Fprintln(a.out.Out, logLine(l))
	}
	return nil
}

// tailLogs follows the log; for programs each line is one JSON object.
func (a *app) tailLogs(ctx context.Context, s *session, id string, f logFlags, since int64) error {
	defer s.keepFresh(ctx)()
	stream, err := s.shell.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{
		Id: id, FollowLogs: true, LogTailLines: f.lines, LogSinceMs: since, LogSources: f.sources, LogMinLevel: f.level,
	})
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if w := event.GetWarning(); w != nil {
			a.out.Note("warning: %s", w.GetMessage())
		}
		l := event.GetLog()
		if l == nil {
			continue
		}
		if !a.out.Structured() {
			fmt.Fprintln(a.out.Out, logLine(l))
			continue
		}
		data, err := json.Marshal(viewLog(l))
		if err != nil {
			return fmt.Errorf("encode a log line: %w", err)
		}
		separator := ""
		if a.out.Format == output.YAML {
			separator = "---\n"
		}
		fmt.Fprintf(a.out.Out, "%s%s\n", separator, data)
	}
}

func viewLog(l *openshellpb.SandboxLogLine) logView {
	return logView{
		Time: time.UnixMilli(l.GetTimestampMs()).UTC().Format("2006-01-02T15:04:05.000Z07:00"), Source: l.GetSource(),
		Level: l.GetLevel(), Target: l.GetTarget(), Message: l.GetMessage(), Fields: l.GetFields(),
	}
}

// logLine is "[secs.mmm] [source ] [LEVEL] [target] message k=v...".
func logLine(l *openshellpb.SandboxLogLine) string {
	ms := l.GetTimestampMs()
	line := fmt.Sprintf("[%d.%03d] [%-7s] [%-5s] [%s] %s", ms/1000, ms%1000, l.GetSource(),
		strings.ToUpper(l.GetLevel()), l.GetTarget(), l.GetMessage())
	if fields := l.GetFields(); len(fields) > 0 {
		line += " " + strings.ReplaceAll(joinMap(fields), ", ", " ")
	}
	return output.Clean(line)
}
