package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/transfer"
)

// Scripts that run in the sandbox, with the place as $1. They need a shell and tar, and sha256sum to verify.
const (
	unpackScript = `CDPATH=; command -v tar >/dev/null 2>&1 || exit 127; mkdir -p -- "$1" && cd -- "$1" || exit 45; exec tar xpof -`
	packScript   = `CDPATH=; command -v tar >/dev/null 2>&1 || exit 127
if [ -d "$1" ]; then cd -- "$1" || exit 45; printf d; exec tar cf - .
elif [ -e "$1" ]; then cd -- "$(dirname -- "$1")" || exit 45; printf f; exec tar chf - "./$(basename -- "$1")"
else echo "no such file or directory: $1" >&2; exit 44; fi`
	checkScript = `CDPATH=; command -v sha256sum >/dev/null 2>&1 || exit 127; cd -- "$1" && exec sha256sum -c - >/dev/null`
	sumsScript  = `CDPATH=; command -v sha256sum >/dev/null 2>&1 || exit 127; cd -- "$1" && exec find . -type f -exec sha256sum {} +`
	sumScript   = `CDPATH=; command -v sha256sum >/dev/null 2>&1 || exit 127; cd -- "$(dirname -- "$1")" && exec sha256sum "./$(basename -- "$1")"`
	isDirScript = `[ -d "$1" ]`
)

// Exit codes of the scripts.
const (
	exitNoFile    = 44
	exitNoFolder  = 45
	exitNoProgram = 127
)

type transferFlags struct{ noGit, noVerify bool }

// transferView is what came of a transfer.
type transferView struct {
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
	Verified bool     `json:"verified"`
	Skipped  []string `json:"skipped"`
}

func (a *app) sandboxUploadCommand() *cobra.Command {
	var f transferFlags
	c := &cobra.Command{
		Use: "upload NAME LOCAL [DEST]", Short: "Copy a file or a folder into a sandbox",
		Long: "Copy a file or a folder into a sandbox, below DEST or its working directory. A folder keeps its name; \".\" copies\n" +
			"what is in it. A file takes the name DEST, unless that is a folder. Modes, times and links are kept. In a Git\n" +
			"repository ignored files are left out.",
		Args: cobra.RangeArgs(2, 3), ValidArgsFunction: a.completeFirst(a.completeSandboxes),
		RunE: func(c *cobra.Command, args []string) error {
			dest := "."
			if len(args) > 2 && args[2] != "" {
				dest = args[2]
			}
			return a.withReady(c.Context(), args[0], func(s *session, sb *openshellpb.Sandbox) error {
				return a.upload(c.Context(), s, sb, args[1], dest, f)
			})
		},
	}
	c.Flags().BoolVar(&f.noGit, "no-git-ignore", false, "copy what Git ignores too")
	c.Flags().BoolVar(&f.noVerify, "no-verify", false, "do not compare checksums afterwards")
	return c
}

func (a *app) sandboxDownloadCommand() *cobra.Command {
	var f transferFlags
	c := &cobra.Command{
		Use: "download NAME PATH [DEST]", Short: "Copy a file or a folder out of a sandbox",
		Long: "Copy a file or a folder out of a sandbox, to DEST or the current directory. Of a folder the contents are copied. Modes,\n" +
			"times and links are kept; nothing is written outside DEST, and links that lead out of it are left out.",
		Args: cobra.RangeArgs(2, 3), ValidArgsFunction: a.completeFirst(a.completeSandboxes),
		RunE: func(c *cobra.Command, args []string) error {
			dest := "."
			if len(args) > 2 && args[2] != "" {
				dest = args[2]
			}
			if args[1] == "" {
				return usagef("PATH is empty")
			}
			return a.withReady(c.Context(), args[0], func(s *session, sb *openshellpb.Sandbox) error {
				return a.download(c.Context(), s, sb, args[1], dest, f)
			})
		},
	}
	c.Flags().BoolVar(&f.noVerify, "no-verify", false, "do not compare checksums afterwards")
	return c
}

// withReady runs a command about a sandbox that is ready.
func (a *app) withReady(ctx context.Context, name string, do func(*session, *openshellpb.Sandbox) error) error {
	return a.withSession(ctx, func(s *session) error {
		sb, err := a.getSandbox(ctx, s, name)
		if err != nil {
			return err
		}
		if err := checkReady(sb); err != nil {
			return err
		}
		a.rememberSandbox(s.ref, sb.GetMetadata().GetName())
		defer s.keepFresh(ctx)()
		return do(s, sb)
	})
}

// checkReady refuses a sandbox in which nothing can be run.
func checkReady(sb *openshellpb.Sandbox) error {
	name, phase := sb.GetMetadata().GetName(), phaseOf(sb)
	if phase == openshellpb.SandboxPhase_SANDBOX_PHASE_READY {
		return nil
	}
	reason, message := reasonOf(sb)
	return failure(orWord(nextStep(reason, message, name), fmt.Sprintf("wait for it, see `sallyport sandbox get %s`", name)),
		"sandbox '%s' is not ready (phase: %s)", name, phaseWord(phase))
}

func (a *app) upload(ctx context.Context, s *session, sb *openshellpb.Sandbox, local, dest string, f transferFlags) error {
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	run := &remote{app: a, shell: s.shell, id: sb.GetMetadata().GetId()}
	dir, name := dest, filepath.Base(filepath.Clean(local))
	switch {
	case info.IsDir() && (name == "." || name == ".." || name == string(filepath.Separator)):
		name = "."
	case info.IsDir(), dest == ".", strings.HasSuffix(dest, "/"), path.Dir(dest) == "/":
	default:
		is, err := run.isDir(ctx, dest)
		if err != nil {
			return err
		}
		if !is {
			dir, name = path.Dir(dest), path.Base(dest)
		}
	}
	var only []string
	if info.IsDir() && !f.noGit {
		if only, err = notIgnored(ctx, local); err != nil {
			return err
		}
	}
	plan, err := transfer.PlanTree(local, name, only)
	if err != nil {
		return err
	}
	if only != nil && len(plan.Entries) == 0 {
		return failure("copy them all the same with --no-git-ignore", ".gitignore filtering excluded all files of %s", local)
	}
	a.skipped(plan.Skipped, 0)
	a.out.Note("Uploading %s -> sandbox:%s", local, dest)
	progress := a.transferProgress("Uploaded", plan.Bytes)
	defer progress.stop()
	sums, err := run.unpack(ctx, dir, plan, progress.told)
	if err != nil {
		return err
	}
	v := transferView{Files: plan.Files, Bytes: plan.Bytes, Skipped: append([]string{}, plan.Skipped...)}
	if !f.noVerify {
		progress.active("Verifying checksums")
		if v.Verified, err = run.verify(ctx, dir, sums); err != nil {
			return err
		}
	}
	progress.stop()
	return a.showTransfer("Upload", v)
}

func (a *app) download(ctx context.Context, s *session, sb *openshellpb.Sandbox, from, dest string, f transferFlags) error {
	run := &remote{app: a, shell: s.shell, id: sb.GetMetadata().GetId()}
	a.out.Note("Downloading sandbox:%s -> %s", from, dest)
	progress := a.transferProgress("Downloaded", 0)
	defer progress.stop()
	got, single, err := run.pack(ctx, from, dest, progress.told)
	if err != nil {
		return err
	}
	a.skipped(got.Skipped, got.More)
	v := transferView{Files: len(got.Sums), Bytes: got.Bytes, Skipped: append([]string{}, got.Skipped...)}
	if !f.noVerify {
		progress.active("Verifying checksums")
		if v.Verified, err = run.compare(ctx, from, single, got.Sums); err != nil {
			return err
		}
	}
	progress.stop()
	return a.showTransfer("Download", v)
}

// skipped tells what was left out.
func (a *app) skipped(names []string, more int) {
	for _, n := range names {
		a.out.Note("warning: left out %s", n)
	}
	if more > 0 {
		a.out.Note("warning: left out %d more", more)
	}
}

func (a *app) showTransfer(what string, v transferView) error {
	if a.out.Structured() {
		return a.out.Value(v)
	}
	checked := ""
	if v.Verified {
		checked = ", checksums verified"
	}
	a.out.Note("%s complete: %d files, %s%s", what, v.Files, sizeWord(v.Bytes), checked)
	return nil
}

// sizeWord words a number of bytes.
func sizeWord(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d bytes", n)
	}
	value, words := float64(n), []string{"KiB", "MiB", "GiB", "TiB"}
	for i, word := range words {
		if value /= unit; value < unit || i == len(words)-1 {
			return fmt.Sprintf("%.1f %s", value, word)
		}
	}
	return ""
}

// transferProgress shows how much has been carried, often on a terminal, else now and then.
type transferProgress struct {
	*output.Progress
	verb  string
	total int64
	every time.Duration
	last  time.Time
}

func (a *app) transferProgress(verb string, total int64) *transferProgress {
	p := &transferProgress{Progress: output.NewProgress(a.out.Err, a.out.Color, false), verb: verb, total: total, last: time.Now()}
	p.every = 10 * time.Second
	if _, live := output.Terminal(a.out.Err); live {
		p.every = 200 * time.Millisecond
	}
	return p
}

func (p *transferProgress) told(n int64) {
	if time.Since(p.last) < p.every {
		return
	}
	p.last = time.Now()
	text := p.verb + " " + sizeWord(n)
	if p.total > 0 {
		text += " of " + sizeWord(p.total)
	}
	p.Active(text)
}

func (p *transferProgress) active(text string) {
	if p.every < time.Second {
		p.Active(text)
	}
}

func (p *transferProgress) stop() { p.Stop() }

// notIgnored lists the files of a folder that Git does not ignore; nil where there is no repository. Where there is one and
// Git cannot be asked, nothing is sent: what it ignores is often what must not leave the machine.
func notIgnored(ctx context.Context, dir string) ([]string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			break
		}
		if at == filepath.Dir(at) {
			return nil, nil
		}
	}
	cmd := exec.CommandContext(ctx, "git", "-C", abs, "ls-files", "-co", "--exclude-standard", "-z", ".")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, failure("mend that, or copy ignored files too with --no-git-ignore", "git does not tell what it ignores: %s",
			orWord(strings.TrimSpace(output.Clean(said.String())), err.Error()))
	}
	files := []string{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		if name != "" {
			files = append(files, strings.TrimSuffix(name, "/"))
		}
	}
	return files, nil
}

// completeFirst completes the first argument only, and lets the shell complete the others as files.
func (a *app) completeFirst(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return complete(c, args, word)
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
}

// place puts the one file of a download where it belongs: into a folder that is there or is written as one, else under the
// name that was given.
func place(staged, base, dest string) error {
	target := dest
	info, err := os.Stat(dest)
	if (err == nil && info.IsDir()) || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, string(filepath.Separator)) {
		if err := os.MkdirAll(dest, 0o755); err != nil { //nolint:gosec // As mkdir makes it, within the user's umask.
			return err
		}
		target = filepath.Join(dest, base)
	}
	return os.Rename(filepath.Join(staged, base), target)
}

// stage makes a folder beside the place where a file will go, so that it can be moved there at once.
func stage(dest string) (dir string, remove func() error, err error) {
	parent := filepath.Dir(filepath.Clean(dest))
	if info, err := os.Stat(dest); err == nil && info.IsDir() {
		parent = dest
	}
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // As above.
		return "", nil, err
	}
	dir, err = os.MkdirTemp(parent, ".sallyport-*")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

var errCut = errors.New("the sandbox sent less than a whole archive")

var _ io.Writer = (*stdinWriter)(nil)
