package exec

import (
	"context"
	"errors"
	"io"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
)

// runChannel runs the command on an exec channel. One goroutine more than the caller's sends input, and only if
// there is any.
func runChannel(ctx context.Context, session *relay.Session, req Request, sink Sink) (int32, error) {
	ch, err := session.Open(ctx, relay.Target{ServiceID: execchannel.ServiceID})
	if err != nil {
		return 0, err
	}
	defer ch.Close()
	if err := sendStart(ch, req); err != nil {
		return 0, err
	}
	// The channel's end makes Recv return, so this is all that a cancelled caller needs.
	stop := context.AfterFunc(ctx, func() {
		_ = ch.Send(execchannel.Encode(execchannel.Cancel, nil))
		ch.Close()
	})
	defer stop()
	if req.Input != nil || len(req.Stdin) > execchannel.SendPayload {
		go sendInput(ctx, ch, req)
	} else if err := sendStdin(ch, req.Stdin); err != nil {
		return 0, err
	}
	code, err := pump(ch, sink)
	if err != nil && ctx.Err() != nil {
		return 0, fault.Wrap(context.Cause(ctx), fault.Canceled, "CALLER_GONE", "the caller ended the call")
	}
	return code, err
}

func sendStart(ch *relay.Channel, req Request) error {
	start, err := proto.Marshal(&sallyportpb.ExecStart{
		Command: req.Command, Workdir: req.Workdir, Environment: req.Environment,
		Tty: req.TTY, Cols: req.Cols, Rows: req.Rows,
	})
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "EXEC_ENCODING", "command construction failed").
			WithNext("use valid UTF-8 in the command and its environment")
	}
	return ch.Send(execchannel.Encode(execchannel.Start, start))
}

func sendStdin(ch *relay.Channel, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), execchannel.SendPayload)
		if err := ch.Send(execchannel.Encode(execchannel.Stdin, data[:n])); err != nil {
			return err
		}
		data = data[n:]
	}
	return ch.Send([]byte{byte(execchannel.StdinEOF)})
}

// sendInput sends Stdin, then Input until it is closed. It ends with the channel: a failed Send needs no report,
// since the pump sees the same end.
func sendInput(ctx context.Context, ch *relay.Channel, req Request) {
	if req.Input == nil {
		_ = sendStdin(ch, req.Stdin)
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ch.Done():
			return
		case in, ok := <-req.Input:
			if !ok {
				_ = ch.Send([]byte{byte(execchannel.StdinEOF)})
				return
			}
			if err := sendOne(ch, in); err != nil {
				return
			}
		}
	}
}

func sendOne(ch *relay.Channel, in Input) error {
	if in.Resize {
		return ch.Send(execchannel.EncodeResize(uint16(min(in.Cols, 1<<16-1)), uint16(min(in.Rows, 1<<16-1))))
	}
	data := in.Data
	for len(data) > 0 {
		n := min(len(data), execchannel.SendPayload)
		if err := ch.Send(execchannel.Encode(execchannel.Stdin, data[:n])); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// pump passes output to sink until the exit code arrives.
func pump(ch *relay.Channel, sink Sink) (int32, error) {
	for {
		data, err := ch.Recv()
		if errors.Is(err, io.EOF) {
			return 0, noExitStatus()
		}
		if err != nil {
			return 0, err
		}
		if len(data) == 0 {
			continue
		}
		frame, err := execchannel.Decode(data)
		if err != nil {
			return 0, fault.Wrap(err, fault.Unavailable, "EXEC_PROTOCOL", "the supervisor broke the exec protocol")
		}
		switch frame.Type {
		case execchannel.Stdout:
			if len(frame.Payload) == 0 {
				// A supervisor's way of finding out whether anybody is still there.
				continue
			}
			err = sink.Stdout(frame.Payload)
		case execchannel.Stderr:
			err = sink.Stderr(frame.Payload)
		case execchannel.Exit:
			return frame.ExitCode()
		case execchannel.Failed:
			return 0, fault.New(fault.FailedPrecondition, "EXEC_START_FAILED", "command could not be started: %.512s", frame.Payload).
				WithNext("check the command's name, its working directory and the sandbox's state")
		default:
			// A newer supervisor may say more than we know.
		}
		if err != nil {
			return 0, err
		}
	}
}
