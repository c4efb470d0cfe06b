package process

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openTerminal returns the master as a file that supports deadlines and the slave as a bare descriptor. The
// slave is asked from the kernel, not looked up by name, so no /dev/pts needs to be mounted where we stand.
func openTerminal(size Size) (master *os.File, slave int, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, 0, fmt.Errorf("unlock terminal: %w", err)
	}
	slave, err = peer(fd)
	if err != nil {
		master.Close()
		return nil, 0, err
	}
	if err := setSize(master, size); err != nil {
		unix.Close(slave)
		master.Close()
		return nil, 0, err
	}
	return master, slave, nil
}

func peer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		uintptr(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC))
	if errno != 0 {
		return 0, fmt.Errorf("open terminal's other end: %w", errno)
	}
	return int(fd), nil
}

func setSize(master *os.File, s Size) error {
	conn, err := master.SyscallConn()
	if err != nil {
		return fmt.Errorf("size terminal: %w", err)
	}
	var failed error
	if err := conn.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: s.Cols, Row: s.Rows})
	}); err != nil {
		return fmt.Errorf("size terminal: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("size terminal: %w", failed)
	}
	return nil
}

// firstChild returns the pid of a dead child that nobody has collected yet, 0 if there is none.
func firstChild() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch err {
		case nil:
			// On 64-bit Linux the union that follows the three common fields starts with the pid at byte 16.
			return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16))), nil //nolint:gosec // Within the struct of 128 bytes.
		case unix.EINTR:
		case unix.ECHILD:
			return 0, nil
		default:
			return 0, fmt.Errorf("look for dead children: %w", err)
		}
	}
}
