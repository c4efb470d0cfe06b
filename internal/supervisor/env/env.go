// Package env reads what a compute driver tells the supervisor through its environment, with the names of both
// generations of the reference supervisor and the few of our own, and then takes the secrets out of it. Nothing
// else in the supervisor looks at the process's environment.
package env

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sallyport.dev/sallyport/internal/supervisor/identity"
	"sallyport.dev/sallyport/internal/supervisor/link"
)

// Names of the variables that hold a secret: Scrub removes them.
const (
	tokenName  = "OPENSHELL_SANDBOX_TOKEN"
	secretName = "OPENSHELL_SSH_HANDSHAKE_SECRET"
	userName   = "OPENSHELL_USER_ENVIRONMENT"
	// These two name files of secrets.
	tokenFileName   = "OPENSHELL_SANDBOX_TOKEN_FILE"
	accountFileName = "OPENSHELL_K8S_SA_TOKEN_FILE"
	// markerName is what the process driver knows the processes of a sandbox by; children keep it.
	markerName = "SALLYPORT_SANDBOX_ID"
)

const (
	maxCommandArgs = 1024
	maxPoll        = time.Hour
)

// Config is everything the driver said.
type Config struct {
	SandboxID   string
	SandboxName string
	Endpoint    link.Endpoint
	TLS         link.TLSFiles
	Identity    identity.Config
	// SSHSocket is the path of the SSH server's socket, empty if the supervisor may choose.
	SSHSocket string
	// Workdir is the working directory and HOME of children.
	Workdir string
	// UserEnvironment is what the sandbox was created with.
	UserEnvironment map[string]string
	// Path is the PATH of children.
	Path string
	// Marker is a variable, "NAME=value", that every child has; empty for none.
	Marker string
	// Credential is the user that children run as; nil means the supervisor's own.
	Credential *syscall.Credential
	// Main is the sandbox's main process; nil for none.
	Main     *MainProcess
	LogLevel slog.Level
	// PushLevel is the least level of what is sent to the gateway.
	PushLevel    slog.Level
	PollInterval time.Duration
}

// MainProcess is the sandbox's main process.
type MainProcess struct {
	Command  []string
	Terminal bool
}

// Load reads the environment through get, for example os.Getenv. It reports everything that is wrong at once.
func Load(get func(string) string) (*Config, error) {
	c := &Config{
		SandboxID:   get("OPENSHELL_SANDBOX_ID"),
		SandboxName: get("OPENSHELL_SANDBOX"),
		SSHSocket:   get("OPENSHELL_SSH_SOCKET_PATH"),
		Path:        get("PATH"),
		TLS: link.TLSFiles{
			CA: get("OPENSHELL_TLS_CA"), Cert: get("OPENSHELL_TLS_CERT"), Key: get("OPENSHELL_TLS_KEY"),
			ServerName: get("OPENSHELL_GATEWAY_TLS_SERVER_NAME"),
		},
		Identity: identity.Config{
			Token: get(tokenName), TokenFile: get(tokenFileName),
			ServiceAccountFile: get(accountFileName), Secret: get(secretName),
		},
	}
	var problems []error
	check := func(name string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	if c.SandboxID == "" {
		check("OPENSHELL_SANDBOX_ID", errors.New("is required; the compute driver sets it"))
	}
	var err error
	c.Endpoint, err = link.ParseEndpoint(get("OPENSHELL_ENDPOINT"))
	check("OPENSHELL_ENDPOINT", err)
	c.Identity.Secure = c.Endpoint.TLS || c.Endpoint.Loopback()
	if id := get(markerName); id != "" {
		c.Marker = markerName + "=" + id
	}
	c.Workdir, err = workdir(get("SALLYPORT_WORKDIR"))
	check("SALLYPORT_WORKDIR", err)
	c.UserEnvironment, err = parseUserEnvironment(get(userName))
	check(userName, err)
	c.Main, err = parseMain(get("OPENSHELL_MAIN_PROCESS_SPEC"), get("OPENSHELL_SANDBOX_COMMAND"))
	check("OPENSHELL_MAIN_PROCESS_SPEC", err)
	c.Credential, err = credential(get("OPENSHELL_SANDBOX_UID"), get("OPENSHELL_SANDBOX_GID"))
	check("OPENSHELL_SANDBOX_UID", err)
	c.LogLevel, err = level(get("OPENSHELL_LOG_LEVEL"))
	check("OPENSHELL_LOG_LEVEL", err)
	c.PushLevel, err = level(get("OPENSHELL_LOG_PUSH_LEVEL"))
	check("OPENSHELL_LOG_PUSH_LEVEL", err)
	c.PollInterval, err = seconds(get("OPENSHELL_POLICY_POLL_INTERVAL_SECS"))
	check("OPENSHELL_POLICY_POLL_INTERVAL_SECS", err)
	return c, errors.Join(problems...)
}

// workdir makes the directory absolute; it has to exist.
func workdir(path string) (string, error) {
	if path == "" {
		path = "."
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", abs)
	}
	return abs, nil
}

func parseUserEnvironment(raw string) (map[string]string, error) {
	if raw == "" {
		return nil, nil
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(raw), &m); err != nil {
		// The decoder's own words may quote a value.
		return nil, errors.New("must be a JSON object of strings")
	}
	// A gateway may hand us our credential among these; it is not for children.
	for _, name := range []string{tokenName, tokenFileName, accountFileName, secretName} {
		delete(m, name)
	}
	return m, nil
}

// parseMain reads the main process: the newer generation's JSON, as it is or as base64url, or the older one's
// plain words.
func parseMain(spec, words string) (*MainProcess, error) {
	if spec == "" {
		if argv := strings.Fields(words); len(argv) > 0 {
			return &MainProcess{Command: argv}, nil
		}
		return nil, nil
	}
	raw := []byte(spec)
	if encoded, ok := strings.CutPrefix(spec, "base64url:"); ok {
		var err error
		if raw, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "=")); err != nil {
			return nil, errors.New("is not base64url")
		}
	}
	var s struct {
		Version int      `json:"version"`
		Command []string `json:"command"`
		TTY     bool     `json:"tty"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("must be a JSON object with version, command and tty")
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("version %d is unknown; this supervisor knows 1", s.Version)
	}
	if len(s.Command) == 0 || s.Command[0] == "" || len(s.Command) > maxCommandArgs {
		return nil, fmt.Errorf("command must have 1 to %d words and not begin with an empty one", maxCommandArgs)
	}
	return &MainProcess{Command: s.Command, Terminal: s.TTY}, nil
}

// credential reads the user of children. Only root can become another.
func credential(uid, gid string) (*syscall.Credential, error) {
	if uid == "" && gid == "" || os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return nil, errors.New("must be a number, together with OPENSHELL_SANDBOX_GID")
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return nil, errors.New("needs a number in OPENSHELL_SANDBOX_GID too")
	}
	if u == 0 {
		return nil, nil
	}
	return &syscall.Credential{Uid: uint32(u), Gid: uint32(g)}, nil
}

// level reads a level's name; the reference's "trace" and filters such as "info,h2=warn" have no finer meaning here.
func level(raw string) (slog.Level, error) {
	word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(raw)), ",")
	switch word {
	case "", "info", "ocsf":
		return slog.LevelInfo, nil
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unknown level %.32q; use error, warn, info or debug", raw)
}

func seconds(raw string) (time.Duration, error) {
	if raw == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(raw, 10, 32)
	if err != nil || n == 0 || time.Duration(n)*time.Second > maxPoll {
		return 0, fmt.Errorf("must be 1 to %d seconds", int(maxPoll/time.Second))
	}
	return time.Duration(n) * time.Second, nil
}
