// Package execserver answers exec channels: it runs one command for each and carries its input, output and exit
// code in the frames of internal/execchannel. It knows no gRPC; a channel is whatever sends and receives messages.
package execserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/supervisor/launch"
	"sallyport.dev/sallyport/internal/supervisor/process"
)

// KillGrace is what a command's process group has to end itself before it is killed.
const KillGrace = 2 * time.Second

// Channel is one relay. Send may be called by several goroutines at once; Recv's result is valid until the next.
type Channel interface {
	Send(data []byte) error
	Recv() ([]byte, error)
	// CloseSend ends our side; Recv keeps working.
	CloseSend() error
	// Guard runs work, which may block for long, and cancels the channel's context if the peer leaves
	// meanwhile. probe is a message that means nothing to the peer.
	Guard(probe []byte, work func() error) error
}

// Starter starts commands; launch.Launcher is one.
type Starter interface {
	Start(c launch.Command) (*process.Process, error)
}

// Server answers exec channels.
type Server struct {
	starter Starter
	log     *slog.Logger
}

// New returns a server that starts commands with starter.
func New(starter Starter, log *slog.Logger) *Server {
	return &Server{starter: starter, log: log}
}

// Serve runs the channel's one command and returns when the channel has ended. ctx ends with the channel.
func (s *Server) Serve(ctx context.Context, ch Channel) error {
	start, err := receiveStart(ch)
	if err != nil {
		return fail(ch, err)
	}
	p, err := s.starter.Start(command(start))
	if err != nil {
		return fail(ch, err)
	}
	defer p.Close()
	// The end of the channel is the end of its command.
	stop := context.AfterFunc(ctx, func() { abort(p) })
	defer stop()
	var input sync.WaitGroup
	input.Go(func() {
		if err := serveInput(ch, p); err != nil {
			s.log.Warn("exec channel broke its protocol", "error", err)
		}
		abort(p)
	})
	err = output(ch, p)
	if err == nil {
		err = ch.Send(execchannel.EncodeExit(int32(p.ExitCode())))
	}
	// The command has ended, so an input that is still waiting for it gives up.
	p.Stdin.Close()
	if closeErr := ch.CloseSend(); err == nil {
		err = closeErr
	}
	input.Wait()
	// An input that broke the protocol has ended early; returning now would cut off the exit that is on its way.
	for {
		if _, recvErr := ch.Recv(); recvErr != nil {
			return err
		}
	}
}

// abort ends the command and whoever is writing to it.
func abort(p *process.Process) {
	p.Terminate(KillGrace)
	p.Stdin.Close()
}

// receiveStart reads the first frame. It alone may be larger than the others: it carries a whole command line.
func receiveStart(ch Channel) (*sallyportpb.ExecStart, error) {
	data, err := ch.Recv()
	if err != nil {
		return nil, fmt.Errorf("receive exec start: %w", err)
	}
	if len(data) == 0 || execchannel.Type(data[0]) != execchannel.Start {
		return nil, errors.New("first frame of an exec channel must be start")
	}
	start := &sallyportpb.ExecStart{}
	if err := proto.Unmarshal(data[1:], start); err != nil {
		return nil, errors.New("start frame of the exec channel is malformed")
	}
	return start, nil
}

func command(start *sallyportpb.ExecStart) launch.Command {
	c := launch.Command{
		Argv: start.GetCommand(), Shell: start.GetShell(),
		Workdir: start.GetWorkdir(), Environment: start.GetEnvironment(),
	}
	if start.GetTty() {
		c.Terminal = size(start.GetCols(), start.GetRows())
	}
	return c
}

// size fills in the usual terminal for a client that does not know its own.
func size(cols, rows uint32) *process.Size {
	if cols == 0 || cols > 1<<16-1 {
		cols = 80
	}
	if rows == 0 || rows > 1<<16-1 {
		rows = 24
	}
	return &process.Size{Cols: uint16(cols), Rows: uint16(rows)}
}

// fail reports a command that could not be started and waits for the gateway to close the channel. A missing or
// unusable program is reported as a shell does, since callers expect its exit code.
func fail(ch Channel, cause error) error {
	var err error
	if code, ok := launch.ExitCode(cause); ok {
		if err = ch.Send(execchannel.Encode(execchannel.Stderr, []byte(cause.Error()+"\n"))); err == nil {
			err = ch.Send(execchannel.EncodeExit(int32(code)))
		}
	} else {
		err = ch.Send(execchannel.Encode(execchannel.Failed, []byte(cause.Error())))
	}
	if err != nil {
		return fmt.Errorf("report failed start: %w", err)
	}
	if err := ch.CloseSend(); err != nil {
		return fmt.Errorf("close exec channel: %w", err)
	}
	drain(ch)
	return nil
}

// drain reads until the gateway has closed the channel, after which nothing we sent can be lost any more.
func drain(ch Channel) {
	for {
		if _, err := ch.Recv(); err != nil {
			return
		}
	}
}

// output passes both outputs on and returns when they are drained and the command has ended.
func output(ch Channel, p *process.Process) error {
	var errOut, errErr error
	var pumps sync.WaitGroup
	if p.Stderr != nil {
		pumps.Go(func() { errErr = pump(ch, p, p.Stderr, execchannel.Stderr) })
	}
	errOut = pump(ch, p, p.Stdout, execchannel.Stdout)
	pumps.Wait()
	// Also after a failure: the channel's end has terminated the process group.
	<-p.Done()
	return errors.Join(errOut, errErr)
}

// outputFrame is the size of a full frame of output. With the few bytes that the wire adds it stays within 32 KiB,
// for which the transport has buffers; for anything larger it takes, and clears, one of 1 MiB.
const outputFrame = 32<<10 - 16

// buffers hold one frame each: the type byte, then what was read.
var buffers sync.Pool

func takeBuffer() *[]byte {
	if b, ok := buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, outputFrame)
	return &b
}

// pump reads straight behind a frame's type byte, so a chunk of output is never copied before it is encoded.
func pump(ch Channel, p *process.Process, out *os.File, t execchannel.Type) error {
	buf := takeBuffer()
	defer buffers.Put(buf)
	frame := *buf
	frame[0] = byte(t)
	return p.Copy(out, frame[1:], func(n int) error { return ch.Send(frame[:1+n]) })
}

// serveInput passes the caller's frames to the process until the channel ends.
func serveInput(ch Channel, p *process.Process) error {
	open := true
	probe := []byte{byte(execchannel.Stdout)}
	for {
		data, gone := ch.Recv()
		if gone != nil {
			return nil //nolint:nilerr // Every end of the channel ends its command in the same way.
		}
		frame, err := execchannel.Decode(data)
		if err != nil {
			return err
		}
		switch frame.Type {
		case execchannel.Stdin:
			if !open {
				continue
			}
			// A process may close its input early; that is no failure, and the rest goes nowhere.
			err := ch.Guard(probe, func() error { _, err := p.Stdin.Write(frame.Payload); return err })
			open = err == nil
		case execchannel.StdinEOF:
			if open {
				// Fails only if the process has left already.
				_ = p.CloseInput()
				open = false
			}
		case execchannel.Resize:
			cols, rows, err := frame.Size()
			if err != nil {
				return err
			}
			if cols > 0 && rows > 0 {
				// Fails only if the terminal is gone, and then there is nothing to resize.
				_ = p.Resize(process.Size{Cols: cols, Rows: rows})
			}
		case execchannel.Cancel:
			p.Terminate(KillGrace)
		default:
			return fmt.Errorf("serve exec input: frame of unexpected type %d", frame.Type)
		}
	}
}
