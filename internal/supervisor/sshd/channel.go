package sshd

import (
	"encoding/binary"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"sallyport.dev/sallyport/internal/supervisor/launch"
	"sallyport.dev/sallyport/internal/supervisor/process"
)

// Payloads of the channel requests, by RFC 4254.
type (
	ptyRequest struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	windowChange struct{ Cols, Rows, Width, Height uint32 }
	execRequest  struct{ Command string }
	subsystem    struct{ Name string }
	signalName   struct{ Name string }
)

// sessionChannel is one session: at most one command.
type sessionChannel struct {
	server  *Server
	channel ssh.Channel

	term     string
	terminal *process.Size
	running  sync.WaitGroup
	process  *process.Process
}

// serve answers requests until the client has closed the channel, then ends the command.
func (c *sessionChannel) serve(requests <-chan *ssh.Request) {
	for r := range requests {
		ok := c.request(r)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
	if c.process != nil {
		c.process.Terminate(killGrace)
		// Wakes a copy of input that waits for a command that does not read.
		c.process.Stdin.Close()
	}
	c.running.Wait()
	c.channel.Close()
}

func (c *sessionChannel) request(r *ssh.Request) bool {
	switch r.Type {
	case "pty-req":
		var p ptyRequest
		if c.process != nil || ssh.Unmarshal(r.Payload, &p) != nil {
			return false
		}
		c.term, c.terminal = p.Term, terminalSize(p.Cols, p.Rows)
		return true
	case "window-change":
		var w windowChange
		if c.process == nil || ssh.Unmarshal(r.Payload, &w) != nil {
			return false
		}
		return c.process.Resize(*terminalSize(w.Cols, w.Rows)) == nil
	case "env":
		// Clients send their locale unasked and take a refusal for a fault; nothing is applied, since a command's
		// environment is the sandbox's.
		return true
	case "shell":
		return c.start(launch.Command{Interactive: true})
	case "exec":
		var e execRequest
		return ssh.Unmarshal(r.Payload, &e) == nil && e.Command != "" && c.start(launch.Command{Shell: e.Command})
	case "subsystem":
		var s subsystem
		if ssh.Unmarshal(r.Payload, &s) != nil || s.Name != "sftp" || len(c.server.o.SFTP) == 0 {
			return false
		}
		return c.start(launch.Command{Argv: slices.Clone(c.server.o.SFTP)})
	case "signal":
		var s signalName
		if c.process == nil || ssh.Unmarshal(r.Payload, &s) != nil {
			return false
		}
		sig, ok := signals[s.Name]
		return ok && c.process.Signal(sig) == nil
	}
	return false
}

// signals are the names of RFC 4254.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

func terminalSize(cols, rows uint32) *process.Size {
	if cols == 0 || cols > 1<<16-1 {
		cols = 80
	}
	if rows == 0 || rows > 1<<16-1 {
		rows = 24
	}
	return &process.Size{Cols: uint16(cols), Rows: uint16(rows)}
}

// start starts the session's command. What keeps it from starting goes to the client's standard error, with the
// exit code a shell would have given.
func (c *sessionChannel) start(cmd launch.Command) bool {
	if c.process != nil {
		return false
	}
	cmd.Terminal, cmd.Term = c.terminal, c.term
	if cmd.Argv != nil {
		cmd.Terminal = nil
	}
	p, err := c.server.o.Starter.Start(cmd)
	if err != nil {
		code, ok := launch.ExitCode(err)
		if !ok {
			code = 126
		}
		c.running.Go(func() {
			_, _ = io.WriteString(c.channel.Stderr(), err.Error()+"\n")
			c.finish(code)
		})
		return true
	}
	c.process = p
	c.running.Go(func() { c.run(p) })
	return true
}

// run carries the command's output, then data, EOF, exit status and close go out in this order.
func (c *sessionChannel) run(p *process.Process) {
	defer p.Close()
	var input sync.WaitGroup
	input.Go(func() {
		// The end of input, or of the command's wish for it, is no failure.
		if _, err := io.Copy(p.Stdin, c.channel); err == nil {
			_ = p.CloseInput()
		}
	})
	var pumps sync.WaitGroup
	if p.Stderr != nil {
		pumps.Go(func() { pump(p, p.Stderr, c.channel.Stderr()) })
	}
	pump(p, p.Stdout, c.channel)
	pumps.Wait()
	<-p.Done()
	c.finish(p.ExitCode())
	p.Stdin.Close()
	input.Wait()
}

// finish reports the exit code. A command that a signal ended has 128 plus its number, which is what clients read.
// Failures here mean that the client has left.
func (c *sessionChannel) finish(code int) {
	_ = c.channel.CloseWrite()
	_, _ = c.channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(code)))
	_ = c.channel.Close()
}

// pumpBuffers match SSH's largest packet.
var pumpBuffers sync.Pool

func takeBuffer() *[]byte {
	if b, ok := pumpBuffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 32<<10)
	return &b
}

func pump(p *process.Process, out *os.File, to io.Writer) {
	buf := takeBuffer()
	defer pumpBuffers.Put(buf)
	// A failed write means that the client has left, which ends the command elsewhere.
	_ = p.Copy(out, *buf, func(n int) error {
		_, err := to.Write((*buf)[:n])
		return err
	})
}
