package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
)

// Ways to authenticate to a gateway, the values of Metadata.AuthMode.
const (
	// AuthOIDC sends a bearer token of an OpenID provider.
	AuthOIDC = "oidc"
	// AuthMTLS presents a client certificate. An absent mode means this one.
	AuthMTLS = "mtls"
	// AuthPlaintext sends nothing over a connection without TLS.
	AuthPlaintext = "plaintext"
	// AuthNone sends nothing over TLS.
	AuthNone = "none"
	// AuthEdge sends the token of an authenticating edge proxy. Other clients register such gateways.
	AuthEdge = "cloudflare_jwt"
)

// Source says which layer a registration was read from.
type Source string

// The layers.
const (
	SourceUser   Source = "user"
	SourceSystem Source = "system"
)

// Metadata is the registration of a gateway: metadata.json of its directory. The first four keys are always
// written because other clients refuse a file without them.
type Metadata struct {
	Name string `json:"name"`
	// Endpoint is the gateway's URL without path or trailing slash.
	Endpoint string `json:"gateway_endpoint"`
	// IsRemote is false for a gateway on this machine.
	IsRemote bool `json:"is_remote"`
	// Port is only filled by clients that start a gateway themselves; 0 otherwise.
	Port uint16 `json:"gateway_port"`

	RemoteHost   string `json:"remote_host,omitempty"`
	ResolvedHost string `json:"resolved_host,omitempty"`
	AuthMode     string `json:"auth_mode,omitempty"`

	EdgeTeamDomain string `json:"edge_team_domain,omitempty"`
	EdgeAuthURL    string `json:"edge_auth_url,omitempty"`

	OIDCIssuer   string `json:"oidc_issuer,omitempty"`
	OIDCClientID string `json:"oidc_client_id,omitempty"`
	OIDCAudience string `json:"oidc_audience,omitempty"`
	// OIDCScopes are separated by spaces.
	OIDCScopes string `json:"oidc_scopes,omitempty"`
	// OIDCCallbackPort is where the browser comes back to after signing in, 0 for any port. Other clients ignore it, and
	// forget it when they rewrite the file.
	OIDCCallbackPort uint16 `json:"oidc_callback_port,omitempty"`

	VMDriverStateDir string `json:"vm_driver_state_dir,omitempty"`

	// Source is the layer it was read from; never written.
	Source Source `json:"-"`
}

// Auth is the way to authenticate in words, with the default of an absent auth_mode resolved.
func (m Metadata) Auth() string {
	switch {
	case m.AuthMode != "":
		return m.AuthMode
	case strings.HasPrefix(m.Endpoint, "http://"):
		return AuthPlaintext
	default:
		return AuthMTLS
	}
}

// Type is where the gateway is, in the words of the list of gateways: cloud, remote or local.
func (m Metadata) Type() string {
	switch {
	case m.AuthMode == AuthEdge:
		return "cloud"
	case m.IsRemote:
		return "remote"
	default:
		return "local"
	}
}

// SameEndpoint tells whether two URLs are the same gateway: equal scheme, host and port, the scheme's port
// standing for an absent one, paths ignored but for trailing slashes.
func SameEndpoint(a, b string) bool {
	na, okA := normal(a)
	nb, okB := normal(b)
	return okA && okB && na == nb
}

func normal(endpoint string) (string, bool) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return "", false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port) +
		strings.TrimRight(u.Path, "/"), true
}

// Save writes the registration m into the user's layer.
func (r Root) Save(m Metadata) error {
	if err := CheckName(m.Name); err != nil {
		return err
	}
	if m.Endpoint == "" {
		return fault.New(fault.InvalidArgument, ReasonInvalidOnWrite, "gateway %q has no endpoint", m.Name).
			WithNext("give the gateway's URL")
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode registration of %q: %w", m.Name, err)
	}
	return r.writeFile(r.gateway(m.Name, metadataFile), append(data, '\n'))
}

// Load reads the registration of a gateway, the user's layer first. Kind NotFound when neither layer has one.
// A file of the user's that cannot be read hides the machine's, so that nobody is moved to another gateway by
// a damaged file.
func (r Root) Load(name string) (Metadata, error) {
	if err := CheckName(name); err != nil {
		return Metadata{}, err
	}
	m, err := load(r.gateway(name, metadataFile), name, SourceUser)
	if errors.Is(err, fs.ErrNotExist) && r.system != "" {
		m, err = load(filepath.Join(r.system, gatewaysDir, name, metadataFile), name, SourceSystem)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Metadata{}, fault.New(fault.NotFound, ReasonUnknown, "Unknown gateway '%s'", name).
			WithNext("see `sallyport gateway list`, or register it with `sallyport gateway add URL --name %s`", name)
	}
	return m, err
}

func load(path, name string, source Source) (Metadata, error) {
	data, err := readFile(path)
	if err != nil {
		return Metadata{}, err
	}
	broken := func(cause error) error {
		return fault.Wrap(cause, fault.FailedPrecondition, ReasonBroken,
			"the registration of gateway '%s' cannot be read", name).
			WithNext("mend or remove %s", path)
	}
	// Older clients wrote two keys under other names.
	var m struct {
		Metadata
		OldTeamDomain string `json:"cf_team_domain"`
		OldAuthURL    string `json:"cf_auth_url"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return Metadata{}, broken(err)
	}
	if m.Endpoint == "" {
		return Metadata{}, broken(errors.New("no gateway_endpoint"))
	}
	if m.EdgeTeamDomain == "" {
		m.EdgeTeamDomain = m.OldTeamDomain
	}
	if m.EdgeAuthURL == "" {
		m.EdgeAuthURL = m.OldAuthURL
	}
	// The directory is the name; a copied directory must not speak for the original.
	m.Name, m.Source = name, source
	return m.Metadata, nil
}

// List returns every readable registration sorted by name; the user's hide the machine's of the same name.
// Directories without a readable registration are left out, as other clients do.
func (r Root) List() ([]Metadata, error) {
	names := map[string]bool{}
	dirs := []string{filepath.Join(r.dir, gatewaysDir)}
	if r.system != "" {
		dirs = append(dirs, filepath.Join(r.system, gatewaysDir))
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list gateways: %w", err)
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	var all []Metadata
	for name := range names {
		if m, err := r.Load(name); err == nil {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b Metadata) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// ByEndpoint finds the registration whose endpoint is the given URL: the active gateway's if that one matches,
// else the first by name.
func (r Root) ByEndpoint(endpoint string) (Metadata, bool, error) {
	all, err := r.List()
	if err != nil {
		return Metadata{}, false, err
	}
	active, err := r.Active()
	if err != nil {
		return Metadata{}, false, err
	}
	var found *Metadata
	for i := range all {
		if !SameEndpoint(all[i].Endpoint, endpoint) {
			continue
		}
		if all[i].Name == active {
			return all[i], true, nil
		}
		if found == nil {
			found = &all[i]
		}
	}
	if found == nil {
		return Metadata{}, false, nil
	}
	return *found, true, nil
}

// Remove deletes a registration of the user's with its tokens, certificates and the pointer to it.
func (r Root) Remove(name string) error {
	m, err := r.Load(name)
	if err != nil && !isBroken(err) {
		return err
	}
	if m.Source == SourceSystem {
		return fault.New(fault.FailedPrecondition, ReasonSystem,
			"gateway '%s' is installed by the system and cannot be removed from user config", name).
			WithNext("ask the administrator of this machine, or register another gateway under the same name")
	}
	// Credentials go first: if anything fails, what is left is a registration without secrets.
	for _, f := range append(slices.Clone(tokenFiles), mtlsDir, lastFile, metadataFile) {
		if err := remove(r.gateway(name, f)); err != nil {
			return err
		}
	}
	// A directory in which another program keeps files of its own stays.
	if left, err := os.ReadDir(r.gateway(name)); err == nil && len(left) == 0 {
		if err := remove(r.gateway(name)); err != nil {
			return err
		}
	}
	if active, err := r.userActive(); err != nil || active != name {
		return err
	}
	return r.ClearActive()
}

func isBroken(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && f.Reason == ReasonBroken
}

// Active is the name in the user's active_gateway file, else in the machine's; empty when there is none.
func (r Root) Active() (string, error) {
	name, err := r.userActive()
	if err != nil || name != "" || r.system == "" {
		return name, err
	}
	return readLine(filepath.Join(r.system, activeFile))
}

func (r Root) userActive() (string, error) { return readLine(filepath.Join(r.dir, activeFile)) }

func readLine(path string) (string, error) {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(data)), nil
}

// SetActive makes a registered gateway the one that commands use by default.
func (r Root) SetActive(name string) error {
	if _, err := r.Load(name); err != nil {
		return err
	}
	return r.writeFile(filepath.Join(r.dir, activeFile), []byte(name))
}

// ClearActive forgets which gateway the user had selected.
func (r Root) ClearActive() error { return remove(filepath.Join(r.dir, activeFile)) }
