package exec

import (
	"maps"
	"slices"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
)

// MaxCommandLine bounds an assembled command line in bytes.
const MaxCommandLine = 256 << 10

// CommandLine builds the one string that an SSH exec request carries: optional change of directory, assignments
// sorted by name, then the words, each quoted for a POSIX shell where it needs to be.
func CommandLine(workdir string, env map[string]string, command []string) (string, error) {
	var b strings.Builder
	if workdir != "" {
		b.WriteString("cd " + quote(workdir) + " && ")
	}
	words := make([]string, 0, len(env)+len(command))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		words = append(words, k+"="+quote(env[k]))
	}
	for _, w := range command {
		words = append(words, quote(w))
	}
	b.WriteString(strings.Join(words, " "))
	if b.Len() > MaxCommandLine {
		return "", fault.New(fault.InvalidArgument, "COMMAND_TOO_LONG",
			"command construction failed: command exceeds maximum length (%d > %d)", b.Len(), MaxCommandLine).
			WithNext("pass large data on standard input instead")
	}
	return b.String(), nil
}

func quote(s string) string {
	if s != "" && strings.IndexFunc(s, special) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'"
}

func special(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	default:
		return !strings.ContainsRune("./-_", r)
	}
}
