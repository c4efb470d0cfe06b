package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/transfer"
)

const (
	// maxSaid bounds what is kept of a script's standard error, in bytes.
	maxSaid = 16 << 10
	// maxSumLine bounds a line of checksums.
	maxSumLine = 16 << 10
)

// remote runs scripts in a sandbox for a transfer.
type remote struct {
	app   *app
	shell openshellpb.OpenShellClient
	id    string
}

// said keeps the beginning of what a script writes to standard error.
type said struct{ bytes.Buffer }

func (s *said) add(data []byte) {
	s.Write(data[:min(len(data), max(0, maxSaid-s.Len()))])
}

func (s *said) text() string { return strings.TrimSpace(output.Clean(s.String())) }

// stdinWriter sends what it is given to a command's standard input.
type stdinWriter struct {
	stream openshellpb.OpenShell_ExecSandboxInteractiveClient
}

// Write implements io.Writer.
func (w *stdinWriter) Write(data []byte) (int, error) {
	for n := 0; n < len(data); {
		part := data[n:min(len(data), n+stdinChunk)]
		if err := w.stream.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Stdin{Stdin: part}}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(data), nil
}

// feed runs a script whose standard input is what write writes, and returns its exit code and its standard error.
func (r *remote) feed(ctx context.Context, script, arg string, write func(context.Context, io.Writer) error) (int, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := r.shell.ExecSandboxInteractive(ctx)
	if err != nil {
		cancel()
		return 0, "", err
	}
	var failed error // of the writing goroutine, once it is done
	done := make(chan struct{})
	begun := false
	end := func() {
		cancel()
		if begun {
			<-done
		}
	}
	defer end()
	start := &openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{Start: &openshellpb.ExecSandboxRequest{
		SandboxId: r.id, Command: []string{"sh", "-c", script, "sallyport", arg},
	}}}
	if err := stream.Send(start); err == nil {
		begun = true
		go func() {
			defer close(done)
			buffered := bufio.NewWriterSize(&stdinWriter{stream}, stdinChunk)
			err := errors.Join(write(ctx, buffered), buffered.Flush())
			if err != nil && !errors.Is(err, io.EOF) {
				// Half an archive must not pass for a whole one: the command is ended instead.
				failed = err
				cancel()
				return
			}
			// A stream that is over already tells why when it is received from.
			_ = stream.CloseSend()
		}()
	}
	var errs said
	code, err := r.events(stream, func([]byte) error { return nil }, &errs)
	if err != nil {
		if end(); failed != nil && status.Code(err) == codes.Canceled {
			err = failed
		}
	}
	if status.Code(err) == codes.Unimplemented {
		err = failure("use a gateway that can, or copy small files with `sallyport sandbox exec`",
			"this gateway cannot pass on the input of commands as a stream: %s", orCode(status.Convert(err)))
	}
	return code, errs.text(), err
}

// events passes standard output on until the exit code.
func (r *remote) events(stream eventReceiver, stdout func([]byte) error, errs *said) (int, error) {
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, failure("try again", "the connection to the sandbox ended before the transfer did")
		}
		if err != nil {
			return 0, err
		}
		switch p := event.GetPayload().(type) {
		case *openshellpb.ExecSandboxEvent_Stdout:
			if err := stdout(p.Stdout.GetData()); err != nil {
				return 0, err
			}
		case *openshellpb.ExecSandboxEvent_Stderr:
			errs.add(p.Stderr.GetData())
		case *openshellpb.ExecSandboxEvent_Exit:
			return int(p.Exit.GetExitCode()), nil
		}
	}
}

// read runs a script and gives its standard output to take.
func (r *remote) read(ctx context.Context, script, arg string, take func(io.Reader) error) (int, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.shell.ExecSandbox(ctx, &openshellpb.ExecSandboxRequest{
		SandboxId: r.id, Command: []string{"sh", "-c", script, "sallyport", arg},
	})
	if err != nil {
		return 0, "", err
	}
	in, out := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := take(in)
		// Whoever has what it wants lets the rest pass.
		if err == nil {
			_, err = io.Copy(io.Discard, in)
		}
		in.CloseWithError(err)
		taken <- err
	}()
	var errs said
	code, err := r.events(stream, func(data []byte) error {
		_, err := out.Write(data)
		return err
	}, &errs)
	out.CloseWithError(err)
	if took := <-taken; took != nil && (err == nil || errors.Is(err, took)) {
		err = took
	}
	return code, errs.text(), err
}

// isDir tells whether there is a folder.
func (r *remote) isDir(ctx context.Context, at string) (bool, error) {
	code, _, err := r.read(ctx, isDirScript, at, func(io.Reader) error { return nil })
	return code == 0, err
}

// outcomeOf words the exit code of a script that copies.
func outcomeOf(code int, text, at string) error {
	switch code {
	case 0:
		return nil
	case exitNoProgram:
		return failure("use an image with tar, or copy with sftp over `sallyport sandbox ssh`", "there is no tar in the sandbox")
	case exitNoFile:
		return failure("", "there is no %s in the sandbox", at)
	case exitNoFolder:
		return failure("choose another place", "the sandbox's folder for %s cannot be used: %s", at, text)
	default:
		return failure("", "tar in the sandbox ended with code %d: %s", code, orWord(text, "without a word"))
	}
}

// unpack sends a plan into a folder of the sandbox.
func (r *remote) unpack(ctx context.Context, dir string, plan *transfer.Plan, told func(int64)) (transfer.Sums, error) {
	var sums transfer.Sums
	code, text, err := r.feed(ctx, unpackScript, dir, func(ctx context.Context, w io.Writer) (err error) {
		sums, err = plan.Pack(ctx, w, told)
		return err
	})
	if err != nil {
		return nil, err
	}
	return sums, outcomeOf(code, text, dir)
}

// pack receives a file or the contents of a folder; single tells which.
func (r *remote) pack(ctx context.Context, from, dest string, told func(int64)) (got *transfer.Unpacked, single bool, err error) {
	code, text, err := r.read(ctx, packScript, from, func(in io.Reader) (err error) {
		var kind [1]byte
		if _, err := io.ReadFull(in, kind[:]); errors.Is(err, io.EOF) {
			return nil // The exit code says why nothing came.
		} else if err != nil {
			return err
		}
		if single = kind[0] == 'f'; !single {
			got, err = transfer.Unpack(ctx, in, dest, told)
			return err
		}
		dir, remove, err := stage(dest)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
		if got, err = transfer.Unpack(ctx, in, dir, told); err != nil {
			return err
		}
		names := slices.Collect(maps.Keys(got.Sums))
		if len(names) != 1 || path.Base(names[0]) != names[0] {
			return errCut
		}
		return place(dir, names[0], dest)
	})
	switch {
	case err != nil:
		return nil, false, err
	case code == 1 && got != nil:
		// Files changed while they were read, or some could not be.
		r.app.out.Note("warning: tar in the sandbox says: %s", text)
	case code != 0:
		return nil, false, outcomeOf(code, text, from)
	case got == nil:
		return nil, false, errCut
	}
	return got, single, nil
}

// plainNames are the names that fit into a line of sha256sum as they are.
func plainNames(sums transfer.Sums) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(sums)), func(n string) bool { return strings.ContainsAny(n, "\n\\\r") })
}

// verify has the sandbox compare what arrived. It returns false where the sandbox cannot.
func (r *remote) verify(ctx context.Context, dir string, sums transfer.Sums) (bool, error) {
	names := plainNames(sums)
	if len(names) == 0 {
		return false, nil
	}
	code, text, err := r.feed(ctx, checkScript, dir, func(_ context.Context, w io.Writer) error {
		for _, n := range names {
			if _, err := fmt.Fprintf(w, "%s  ./%s\n", sums[n], n); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case code == exitNoProgram:
		r.app.out.Note("warning: there is no sha256sum in the sandbox, so that what arrived was not verified")
		return false, nil
	case code != 0:
		return false, failure("copy again", "what arrived in the sandbox differs from what was sent: %s", text)
	}
	return true, nil
}

// compare compares what was received with what the sandbox has.
func (r *remote) compare(ctx context.Context, from string, single bool, sums transfer.Sums) (bool, error) {
	names := plainNames(sums)
	if len(names) == 0 {
		return false, nil
	}
	script := sumsScript
	if single {
		script = sumScript
	}
	there := transfer.Sums{}
	code, text, err := r.read(ctx, script, from, func(in io.Reader) error {
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxSumLine)
		for lines.Scan() {
			sum, name, ok := strings.Cut(lines.Text(), "  ./")
			if _, known := sums[name]; ok && known {
				there[name] = sum
			}
		}
		return lines.Err()
	})
	switch {
	case err != nil:
		return false, err
	case code == exitNoProgram:
		r.app.out.Note("warning: there is no sha256sum in the sandbox, so that what was received was not verified")
		return false, nil
	case code != 0 && len(there) == 0:
		return false, failure("", "the checksums in the sandbox cannot be read: %s", text)
	}
	differ := 0
	for _, n := range names {
		if there[n] != sums[n] {
			differ++
			r.app.out.Note("warning: %s differs from the sandbox's", n)
		}
	}
	if differ > 0 {
		return false, failure("copy again, or leave out the comparison with --no-verify",
			"%d of %d files changed in the sandbox while they were copied, or were damaged", differ, len(names))
	}
	return true, nil
}
