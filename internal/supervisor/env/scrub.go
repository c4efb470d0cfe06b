package env

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Scrub removes every variable of the drivers but the marker from the process's environment and overwrites the
// secret values where the kernel shows them to others, in /proc/PID/environ. It must run before a child starts.
// An error means that the second part did not work, as in a sandbox without /proc.
func Scrub() error {
	var secrets []string
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if name == markerName || !strings.HasPrefix(name, "OPENSHELL_") && !strings.HasPrefix(name, "SALLYPORT_") {
			continue
		}
		if value != "" && (name == tokenName || name == secretName || name == userName) {
			secrets = append(secrets, pair)
		}
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("remove %s from the environment: %w", name, err)
		}
	}
	if len(secrets) == 0 {
		return nil
	}
	return overwrite(secrets)
}

// overwrite blanks the pairs in the memory where the kernel put the environment at exec.
func overwrite(pairs []string) error {
	start, end, err := environmentArea()
	if err != nil {
		return err
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("overwrite environment: %w", err)
	}
	defer mem.Close()
	area := make([]byte, end-start)
	if _, err := mem.ReadAt(area, start); err != nil {
		return fmt.Errorf("overwrite environment: %w", err)
	}
	for _, pair := range pairs {
		at := bytes.Index(area, append([]byte(pair), 0))
		if at < 0 {
			// Set by ourselves, so the kernel never saw it.
			continue
		}
		name := strings.IndexByte(pair, '=') + 1
		blank := bytes.Repeat([]byte{'x'}, len(pair)-name)
		if _, err := mem.WriteAt(blank, start+int64(at+name)); err != nil {
			return fmt.Errorf("overwrite environment: %w", err)
		}
	}
	return nil
}

// environmentArea reads where the environment lies: the 50th and 51st field of the process's status.
func environmentArea() (start, end int64, err error) {
	raw, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("find environment: %w", err)
	}
	// The second field is the program's name, which may hold anything; the third follows its parenthesis.
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	const third, envStart, envEnd = 3, 50, 51
	if len(f) <= envEnd-third {
		return 0, 0, errors.New("find environment: the kernel does not tell")
	}
	start, err1 := strconv.ParseInt(string(f[envStart-third]), 10, 64)
	end, err2 := strconv.ParseInt(string(f[envEnd-third]), 10, 64)
	if err1 != nil || err2 != nil || start <= 0 || end <= start || end-start > 16<<20 {
		return 0, 0, errors.New("find environment: the kernel does not tell")
	}
	return start, end, nil
}
