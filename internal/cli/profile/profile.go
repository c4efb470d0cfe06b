// Package profile owns what the command line keeps on disk about gateways: where each one is, how to sign in to
// it, the tokens and certificates for it, and which one is active. The layout and the keys are those of the
// OpenShell clients, so that every client on a machine sees the same gateways. It speaks to no gateway and to no
// identity provider, prints nothing and reads no flags.
//
// Every file is written to a temporary file of mode 0600, synced and renamed, so that a reader never sees half a
// file and a secret is never readable by others, not even for a moment. Directories have mode 0700.
package profile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/privatefile"
)

// Names of files and directories under a root.
const (
	activeFile   = "active_gateway"
	gatewaysDir  = "gateways"
	locksDir     = "locks"
	metadataFile = "metadata.json"
	tokenFile    = "oidc_token.json"
	promptFile   = "oidc_login_prompt_required"
	lastFile     = "last_sandbox"
	mtlsDir      = "mtls"
	caFile       = "ca.crt"
	certFile     = "tls.crt"
	keyFile      = "tls.key"
)

// tokenFiles hold credentials; removing a gateway removes all of them, also those that only other clients write.
var tokenFiles = []string{tokenFile, promptFile, "edge_token", "cf_token"}

const (
	// defaultSystemDir is where an administrator registers gateways for every user of a machine.
	defaultSystemDir = "/etc/openshell"
	// maxFile bounds every file read here.
	maxFile = 1 << 20
	// maxName is the longest name that is one component of a path on the usual file systems.
	maxName = 255
)

// Reasons of the errors of this package.
const (
	ReasonInvalidName    = "INVALID_GATEWAY_NAME"
	ReasonUnknown        = "UNKNOWN_GATEWAY"
	ReasonSystem         = "SYSTEM_GATEWAY"
	ReasonBroken         = "BROKEN_REGISTRATION"
	ReasonNoConfigDir    = "NO_CONFIG_DIRECTORY"
	ReasonNotSignedIn    = "NOT_SIGNED_IN"
	ReasonInvalidCert    = "INVALID_CERTIFICATE"
	ReasonLockTimeout    = "LOCK_TIMEOUT"
	ReasonInvalidOnWrite = "INVALID_REGISTRATION"
)

// Env looks up an environment variable, as os.LookupEnv does.
type Env func(key string) (string, bool)

// Root is the user's configuration directory together with the machine-wide one behind it. It holds no state
// of its own: every call reads or writes files.
type Root struct {
	dir    string
	system string
}

// Dir finds the root: $XDG_CONFIG_HOME/openshell, else $HOME/.config/openshell. The machine-wide layer is
// $OPENSHELL_SYSTEM_GATEWAY_DIR if that is an absolute path, else /etc/openshell. A relative XDG_CONFIG_HOME is
// refused, because tokens would land in whatever directory the command is run from.
func Dir(env Env) (Root, error) {
	system := defaultSystemDir
	if dir, ok := env("OPENSHELL_SYSTEM_GATEWAY_DIR"); ok && filepath.IsAbs(dir) {
		system = dir
	}
	if dir, _ := env("XDG_CONFIG_HOME"); dir != "" {
		if !filepath.IsAbs(dir) {
			return Root{}, fault.New(fault.InvalidArgument, ReasonNoConfigDir,
				"XDG_CONFIG_HOME is not an absolute path").WithNext("set XDG_CONFIG_HOME to an absolute path or unset it")
		}
		return At(filepath.Join(dir, "openshell"), system), nil
	}
	home, _ := env("HOME")
	if !filepath.IsAbs(home) {
		return Root{}, fault.New(fault.FailedPrecondition, ReasonNoConfigDir,
			"there is no directory for the configuration").WithNext("set HOME or XDG_CONFIG_HOME to an absolute path")
	}
	return At(filepath.Join(home, ".config", "openshell"), system), nil
}

// At is the root at dir with the machine-wide layer at system; an empty system means that there is none.
func At(dir, system string) Root { return Root{dir: dir, system: system} }

// Path is the user's configuration directory.
func (r Root) Path() string { return r.dir }

// CheckName accepts a gateway's name if it is one component of a path, so that no name reaches outside of the
// directory of gateways.
func CheckName(name string) error {
	bad := name == "" || name == "." || name == ".." || len(name) > maxName ||
		strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, unicode.IsControl)
	if bad {
		return fault.New(fault.InvalidArgument, ReasonInvalidName,
			"invalid gateway name %q: expected a single path component", name).
			WithNext("choose a name of letters, digits, '-', '_' and '.'")
	}
	return nil
}

func (r Root) gateway(name string, rest ...string) string {
	return filepath.Join(append([]string{r.dir, gatewaysDir, name}, rest...)...)
}

// writeFile replaces path atomically with data, mode 0600, making its directory with mode 0700.
func (r Root) writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := r.mkdir(dir); err != nil {
		return err
	}
	if err := privatefile.Replace(path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// mkdir makes dir and its parents with mode 0700 and takes away what others may do with those under the root.
func (r Root) mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the configuration directory: %w", err)
	}
	for d := dir; strings.HasPrefix(d, r.dir); d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("make the configuration directory: %w", err)
		}
		if info.Mode().Perm()&0o077 == 0 {
			continue
		}
		//nolint:gosec // 0700 is what a directory needs: its owner must be able to enter it.
		if err := os.Chmod(d, 0o700); err != nil {
			return fmt.Errorf("protect the configuration directory: %w", err)
		}
	}
	return nil
}

// readFile reads at most maxFile bytes of path.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// remove deletes path; one that is not there is fine.
func remove(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
