package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds the configuration file in bytes.
const maxFile = 1 << 20

// document is what the configuration file held beyond plain settings.
type document struct {
	sockets map[string]string
	unused  []string
}

// knownUnused are keys of the reference's file that this version accepts and reports.
var knownUnused = []string{
	"gateway.credential_drivers", "gateway.default_credential_driver", "gateway.credential_storage",
	"gateway.ssh_session_ttl_secs", "gateway.policy_validation_failure_mode", "gateway.provider_profile_sources",
	"gateway.default_image", "gateway.supervisor_image", "gateway.service_account_name", "gateway.enable_user_namespaces",
	"gateway.sa_token_ttl_secs", "gateway.guest_tls_ca", "gateway.guest_tls_cert", "gateway.guest_tls_key",
	"gateway.tls.require_client_auth", "gateway.tls.external_cert_path", "gateway.tls.external_key_path",
	"gateway.tls.external_server_names", "gateway.gateway_jwt.signing_key_path", "gateway.gateway_jwt.public_key_path",
	"gateway.gateway_jwt.kid_path", "gateway.otlp", "gateway.interceptors", "supervisor", "credential_drivers", "drivers",
}

func (v *values) layerFile(env func(string) (string, bool)) error {
	path, explicit := v.configPath(env)
	if !explicit {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	return v.decode(path, raw)
}

// decode reads the file's tree; unknown keys are errors that name themselves.
func (v *values) decode(path string, raw []byte) error {
	var tree struct {
		OpenShell map[string]any `toml:"openshell"`
	}
	if err := toml.Unmarshal(raw, &tree); err != nil {
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := d.Position()
			return fmt.Errorf("%s:%d:%d: %s", path, line, column, d.Error())
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	root := tree.OpenShell
	if version, ok := root["version"]; ok {
		if n, isInt := version.(int64); !isInt || n > 1 {
			return fmt.Errorf("%s: unsupported gateway config version %v; this version reads 1", path, version)
		}
		delete(root, "version")
	}
	v.file.sockets = map[string]string{}
	flat := map[string]any{}
	flatten("", root, flat)
	for _, key := range sortedKeys(flat) {
		if err := v.fileKey(path, key, flat[key]); err != nil {
			return err
		}
	}
	return nil
}

func (v *values) fileKey(path, key string, value any) error {
	origin := path + " [openshell." + key + "]"
	for _, s := range settings {
		if s.file == key {
			text, err := scalar(value)
			if err != nil {
				return fmt.Errorf("%s: %w", origin, err)
			}
			v.put(s, text, origin)
			return nil
		}
	}
	switch {
	case key == "gateway.database_url":
		return fmt.Errorf("%s: database_url is not allowed in the gateway config file; set OPENSHELL_DB_URL", path)
	case key == "gateway.bind_address":
		a, err := netip.ParseAddrPort(fmt.Sprint(value))
		if err != nil {
			return fmt.Errorf("%s must be ip:port, got %q", origin, value)
		}
		v.put(setting{flag: "bind-address"}, a.Addr().String(), origin)
		v.put(setting{flag: "port"}, fmt.Sprint(a.Port()), origin)
		return nil
	case strings.HasPrefix(key, "drivers.") && strings.HasSuffix(key, ".socket_path"):
		v.file.sockets[strings.TrimSuffix(strings.TrimPrefix(key, "drivers."), ".socket_path")] = fmt.Sprint(value)
		return nil
	}
	for _, known := range knownUnused {
		if key == known || strings.HasPrefix(key, known+".") {
			v.file.unused = append(v.file.unused, origin+" has no effect in this version; see docs/status.md")
			return nil
		}
	}
	return fmt.Errorf("%s: unknown key %q", path, "openshell."+key)
}

func (v *values) driverSocket(name string) string { return v.file.sockets[name] }

func flatten(prefix string, in map[string]any, out map[string]any) {
	for k, value := range in {
		key := k
		if prefix != "" {
			key = prefix + "." + k
		}
		if m, ok := value.(map[string]any); ok {
			flatten(key, m, out)
			continue
		}
		out[key] = value
	}
}

func scalar(value any) (string, error) {
	switch x := value.(type) {
	case string:
		return x, nil
	case bool, int64:
		return fmt.Sprint(x), nil
	case []any:
		var parts []string
		for _, p := range x {
			s, ok := p.(string)
			if !ok {
				return "", fmt.Errorf("must be a list of strings")
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("must be a string, number, boolean or list of strings")
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
