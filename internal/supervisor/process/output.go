package process

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// IdleAfterExit is how long a silent pipe is kept open for what a background child may still write.
	IdleAfterExit = 500 * time.Millisecond
	// drainAfterExit bounds how long a background child that never stops writing is listened to.
	drainAfterExit = 10 * time.Second
	// maxPipe is the most that a pipe can hold, so the most that the process itself left behind in it.
	maxPipe = 1 << 20
)

// Copy reads out into buf again and again and calls emit with the number of bytes read, until the output ends or
// emit fails. Nothing that the process itself wrote is lost. After its end a background child that holds the pipe
// is heard while it writes, but not waited for longer than IdleAfterExit, and not for ever.
func (p *Process) Copy(out *os.File, buf []byte, emit func(n int) error) error {
	var grown bool
	late := 0
	for {
		ended := p.ended.Load()
		if ended {
			if late > maxPipe && time.Since(p.endedAt) > drainAfterExit {
				return nil
			}
			// Also replaces a deadline that ran out while emit was waiting for a slow reader.
			if err := out.SetReadDeadline(time.Now().Add(IdleAfterExit)); err != nil {
				return ignoreClosed(err)
			}
		}
		n, err := out.Read(buf)
		if n > 0 {
			if ended {
				late += n
			}
			if n == len(buf) && !grown {
				grown = true
				growPipe(out)
			}
			if err := emit(n); err != nil {
				return err
			}
		}
		if err != nil {
			return outputEnd(err)
		}
	}
}

// outputEnd tells the ordinary ends of an output from failures.
func outputEnd(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded),
		// A terminal reports the departure of its last user this way.
		errors.Is(err, syscall.EIO):
		return nil
	}
	return ignoreClosed(err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// wakeReaders lets a blocked Copy look again once the process has ended.
func (p *Process) wakeReaders() {
	for _, f := range []*os.File{p.Stdout, p.Stderr} {
		if f != nil {
			// Fails only for a file that is closed already, which woke its reader itself.
			_ = f.SetReadDeadline(time.Now().Add(IdleAfterExit))
		}
	}
}

// growPipe enlarges the pipe of a process that writes in bulk. The kernel limits the sum for each user and then
// refuses; the pipe just stays as it is.
func growPipe(f *os.File) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, maxPipe)
	})
}
