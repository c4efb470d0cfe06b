package cli

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/term"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// stdinChunk is how much of the terminal's input travels in one message, in bytes.
const stdinChunk = 32 << 10

// inputSender sends from two goroutines, the one that reads the terminal and the one that follows its size.
type inputSender struct {
	mu     sync.Mutex
	stream openshellpb.OpenShell_ExecSandboxInteractiveClient
}

func (s *inputSender) send(m *openshellpb.ExecSandboxInput) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(m)
}

// interactive runs a command on a terminal connected to this one.
func (a *app) interactive(ctx context.Context, s *session, req *openshellpb.ExecSandboxRequest) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inFD, _ := output.Terminal(a.opts.Stdio.In)
	sizeFD := inFD
	if outFD, ok := output.Terminal(a.opts.Stdio.Out); ok {
		sizeFD = outFD
	}
	req.Tty = true
	req.Cols, req.Rows = terminalSize(sizeFD)
	stream, err := s.shell.ExecSandboxInteractive(ctx)
	if err != nil {
		return 0, err
	}
	in := &inputSender{stream: stream}
	start := &openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{Start: req}}
	if err := in.send(start); err != nil {
		// The stream is already over; receiving tells why.
		return a.copyEvents(stream)
	}
	before, err := term.MakeRaw(inFD)
	if err != nil {
		return 0, fmt.Errorf("switch the terminal to raw mode: %w", err)
	}
	//nolint:errcheck // A terminal that is gone cannot be restored.
	defer term.Restore(inFD, before)
	// Reading a terminal cannot be interrupted: this goroutine may outlive the call, until the process ends.
	go pumpInput(a.opts.Stdio.In, in)
	stop := followSize(ctx, sizeFD, func(cols, rows uint32) {
		//nolint:errcheck // A stream that is over has no use for the size; receiving tells why.
		in.send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Resize{
			Resize: &openshellpb.ExecSandboxWindowResize{Cols: cols, Rows: rows},
		}})
	})
	defer stop()
	return a.copyEvents(stream)
}

func pumpInput(from io.Reader, to *inputSender) {
	buf := make([]byte, stdinChunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			data := append([]byte(nil), buf[:n]...)
			if to.send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Stdin{Stdin: data}}) != nil {
				return
			}
		}
		if err != nil {
			to.mu.Lock()
			defer to.mu.Unlock()
			//nolint:errcheck // Receiving tells why a stream is over.
			to.stream.CloseSend()
			return
		}
	}
}

func terminalSize(fd int) (cols, rows uint32) {
	w, h, err := term.GetSize(fd)
	if err != nil || w <= 0 || h <= 0 {
		return 80, 24
	}
	return uint32(w), uint32(h)
}
