// Package launch turns a command of the sandbox's user into a child process: the cleared environment it gets, the
// shell it runs in, its working directory. Commands of exec channels, SSH sessions and the main process all start
// here and so see the same world. It owns no process once that runs and knows no wire.
//
// A child sees the real values of the provider environment: no egress proxy stands between it and the network yet.
package launch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"sallyport.dev/sallyport/internal/supervisor/process"
)

const (
	bash = "/bin/bash"
	sh   = "/bin/sh"
	// defaultPath is what a child searches when the supervisor itself has no PATH.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultTerm = "xterm-256color"
)

// builtins are the commands that only a shell has.
var builtins = map[string]bool{
	".": true, ":": true, "alias": true, "bg": true, "cd": true, "command": true, "declare": true, "eval": true, "exec": true,
	"exit": true, "export": true, "fg": true, "getopts": true, "hash": true, "jobs": true, "let": true, "read": true,
	"readonly": true, "set": true, "shift": true, "shopt": true, "source": true, "times": true, "trap": true, "type": true,
	"typeset": true, "ulimit": true, "umask": true, "unalias": true, "unset": true, "wait": true,
}

// ErrNotFound and ErrNotExecutable say why a program cannot be run; shells report them as 127 and 126.
var (
	ErrNotFound      = errors.New("command not found")
	ErrNotExecutable = errors.New("permission denied")
)

// ExitCode returns the exit code by which shells report err, if err is one of theirs.
func ExitCode(err error) (int, bool) {
	switch {
	case errors.Is(err, ErrNotFound):
		return 127, true
	case errors.Is(err, ErrNotExecutable):
		return 126, true
	}
	return 0, false
}

// Launcher starts commands.
type Launcher struct {
	// Table holds the children.
	Table *process.Table
	// Workdir is the working directory and HOME of children.
	Workdir string
	// User is the environment the sandbox was created with.
	User map[string]string
	// Marker is a variable, "NAME=value", that no command can remove; empty for none.
	Marker string
	// Path is the PATH of children; empty means the usual one.
	Path string
	// Credential is the user to run as; nil means the supervisor's own.
	Credential *syscall.Credential
	// Provider returns the current provider environment; the map is read only. May be nil.
	Provider func() map[string]string
}

// Command says what to start. Exactly one of Argv, Shell and Interactive is used, in this order of precedence:
// Shell, Interactive, Argv.
type Command struct {
	// Argv is run as it is; Argv[0] is looked up in the PATH of the child's environment.
	Argv []string
	// Shell is a command line for a login shell.
	Shell string
	// Interactive asks for a shell without a command line.
	Interactive bool
	// Workdir is the working directory, relative to the launcher's; empty means the launcher's.
	Workdir string
	// Environment wins over everything but the marker.
	Environment map[string]string
	// Terminal asks for a pseudo terminal; Term is its type.
	Terminal *process.Size
	Term     string
	// Stdio replaces the pipes, as in process.Spec.
	Stdio *[3]*os.File
}

// Start starts the command. Its errors are meant for the command's user.
func (l *Launcher) Start(c Command) (*process.Process, error) {
	for k, v := range c.Environment {
		if !validName(k) || strings.IndexByte(v, 0) >= 0 {
			return nil, fmt.Errorf("invalid environment variable %.64q", k)
		}
	}
	env := l.environment(c)
	dir := l.Workdir
	switch {
	case filepath.IsAbs(c.Workdir):
		dir = c.Workdir
	case c.Workdir != "":
		dir = filepath.Join(dir, c.Workdir)
	}
	path, args, err := c.program(dir, env["PATH"])
	if err != nil {
		return nil, err
	}
	if c.Workdir != "" {
		env["PWD"] = dir
	}
	p, err := l.Table.Start(process.Spec{
		Path: path, Args: args, Dir: dir, Env: l.list(env), Terminal: c.Terminal, Stdio: c.Stdio, Credential: l.Credential,
	})
	if err != nil {
		return nil, explain(err, dir, args[0])
	}
	return p, nil
}

// program chooses the file and the arguments.
func (c Command) program(dir, path string) (string, []string, error) {
	shell, login := bash, "-lc"
	if _, err := os.Stat(bash); err != nil {
		// Not every sh knows the login flag.
		shell, login = sh, "-c"
	}
	switch {
	case c.Shell != "":
		return shell, []string{shell, login, c.Shell}, nil
	case c.Interactive && c.Terminal != nil:
		return shell, []string{shell, "-i"}, nil
	case c.Interactive:
		return shell, []string{shell}, nil
	case len(c.Argv) == 0 || c.Argv[0] == "":
		return "", nil, errors.New("command is empty")
	}
	file, err := lookPath(c.Argv[0], dir, path)
	if errors.Is(err, ErrNotFound) && builtins[c.Argv[0]] {
		// Clients know commands as words of a login shell, where a builtin works. The words are passed as
		// parameters, so that the shell interprets none of them.
		return shell, append([]string{shell, login, `"$0" "$@"`}, c.Argv...), nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("%.256s: %w", c.Argv[0], err)
	}
	return file, c.Argv, nil
}

// environment merges what a child sees; later layers win.
func (l *Launcher) environment(c Command) map[string]string {
	path, term := l.Path, c.Term
	if path == "" {
		path = defaultPath
	}
	if term == "" {
		term = defaultTerm
	}
	env := map[string]string{
		"OPENSHELL_SANDBOX": "1", "HOME": l.Workdir, "USER": "sandbox", "SHELL": bash, "PATH": path, "TERM": term,
	}
	layers := []map[string]string{l.User, nil, c.Environment}
	if l.Provider != nil {
		layers[1] = l.Provider()
	}
	for _, layer := range layers {
		maps.Copy(env, layer)
	}
	return env
}

func (l *Launcher) list(env map[string]string) []string {
	marker, _, _ := strings.Cut(l.Marker, "=")
	list := make([]string, 0, len(env)+1)
	for k, v := range env {
		if k != marker && validName(k) && strings.IndexByte(v, 0) < 0 {
			list = append(list, k+"="+v)
		}
	}
	slices.Sort(list)
	if l.Marker != "" {
		list = append(list, l.Marker)
	}
	return list
}

// validName accepts what an environment can hold; stricter rules are the gateway's.
func validName(k string) bool { return k != "" && !strings.ContainsAny(k, "=\x00") }

// lookPath finds an executable file as a shell does.
func lookPath(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	result := ErrNotFound
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			// An empty or relative entry would run whatever lies in the working directory.
			continue
		}
		file := filepath.Join(d, name)
		if _, err := os.Lstat(file); err != nil {
			// Also where the folder itself may not be entered: shells pass over it.
			continue
		}
		switch err := executable(file); {
		case err == nil:
			return file, nil
		case errors.Is(err, ErrNotExecutable):
			result = err
		}
	}
	return "", result
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrPermission):
		return ErrNotExecutable
	case err != nil:
		return ErrNotFound
	case info.IsDir(), info.Mode()&0o111 == 0:
		return ErrNotExecutable
	}
	return nil
}

// explain tells the two causes of "no such file" apart.
func explain(err error, dir, program string) error {
	if info, statErr := os.Stat(dir); statErr != nil {
		return fmt.Errorf("working directory %.256q: %w", dir, errors.Unwrap(statErr))
	} else if !info.IsDir() {
		return fmt.Errorf("working directory %.256q: not a directory", dir)
	}
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%.256s: %w", program, ErrNotFound)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%.256s: %w", program, ErrNotExecutable)
	case errors.Is(err, syscall.E2BIG):
		return errors.New("command and environment are too long for the system")
	}
	return err
}
