package gateway

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// forgetProgram takes the pages of the program file out of the process's memory; the system keeps them in its cache, and
// they come back one by one as they are used. Two thirds of what a gateway has touched by the time it serves is code and
// tables that only its start needs. Nothing that can be written is touched. On failure nothing has changed but that.
func forgetProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("find the program's pages: %w", err)
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return fmt.Errorf("read a line of the memory map: %w", err)
		}
		if !strings.HasSuffix(lines.Text(), " "+program) || strings.Contains(mode, "w") {
			continue
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give pages of the program back: %w", errno)
		}
	}
	return lines.Err()
}
