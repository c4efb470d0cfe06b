//go:build linux

package driverprocess

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
	"sallyport.dev/sallyport/internal/fault"
)

// Image is the only image there is: the machine's own files.
const Image = "host"

// ids become directory names, so nothing else may be in them.
var validID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// Bounds of what a gateway may ask for; gateways have stricter ones for their users.
const (
	maxNameBytes = 253
	maxEnv       = 512
	maxEnvBytes  = 512 << 10
	maxArgs      = 256
	maxArgBytes  = 256 << 10
)

func checkID(id string) error {
	if !validID.MatchString(id) {
		return fault.New(fault.InvalidArgument, "SANDBOX_ID_INVALID", "sandbox id must be 1 to 64 letters, digits or hyphens")
	}
	return nil
}

func unusable(reason, format string, args ...any) *fault.Error {
	return fault.New(fault.FailedPrecondition, reason, format, args...)
}

// newRecord checks a sandbox to create and returns what to store of it.
func (d *Driver) newRecord(sb *computepb.DriverSandbox) (record, error) {
	spec := sb.GetSpec()
	switch {
	case sb == nil:
		return record{}, fault.New(fault.InvalidArgument, "SANDBOX_MISSING", "sandbox is required")
	case spec == nil:
		return record{}, fault.New(fault.InvalidArgument, "SPEC_MISSING", "spec is required")
	case sb.GetName() == "" || len(sb.GetName()) > maxNameBytes || strings.ContainsRune(sb.GetName(), 0):
		return record{}, fault.New(fault.InvalidArgument, "SANDBOX_NAME_INVALID", "sandbox name must have 1 to %d bytes and no NUL", maxNameBytes)
	}
	if err := checkID(sb.GetId()); err != nil {
		return record{}, err
	}
	if err := checkStrings(spec); err != nil {
		return record{}, err
	}
	if err := d.checkUsable(spec); err != nil {
		return record{}, err
	}
	limits, err := d.limitsOf(spec.GetTemplate().GetResources())
	if err != nil {
		return record{}, err
	}
	return record{
		Version: 1, ID: sb.GetId(), Name: sb.GetName(), Namespace: sb.GetNamespace(), Workspace: sb.GetWorkspace(),
		Want: wantRunning, LogLevel: spec.GetLogLevel(), TemplateEnv: spec.GetTemplate().GetEnvironment(),
		Env: spec.GetEnvironment(), Command: spec.GetCommand(), TTY: spec.GetTty(), Token: spec.GetSandboxToken() != "",
		Limits: limits,
	}, nil
}

// checkStrings bounds everything that becomes part of a process.
func checkStrings(spec *computepb.DriverSandboxSpec) error {
	entries, size := 0, 0
	for _, env := range []map[string]string{spec.GetTemplate().GetEnvironment(), spec.GetEnvironment()} {
		for k, v := range env {
			entries, size = entries+1, size+len(k)+len(v)
			if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
				return unusable("ENVIRONMENT_INVALID", "environment name %q or its value cannot be given to a process", k)
			}
		}
	}
	if entries > maxEnv || size > maxEnvBytes {
		return unusable("ENVIRONMENT_TOO_LARGE", "environment exceeds %d entries or %d bytes", maxEnv, maxEnvBytes)
	}
	size = 0
	for _, arg := range spec.GetCommand() {
		size += len(arg)
		if strings.ContainsRune(arg, 0) {
			return unusable("COMMAND_INVALID", "command has a NUL in an argument")
		}
	}
	if len(spec.GetCommand()) > maxArgs || size > maxArgBytes {
		return unusable("COMMAND_TOO_LARGE", "command exceeds %d arguments or %d bytes", maxArgs, maxArgBytes)
	}
	if level := spec.GetLogLevel(); len(level) > 32 || strings.ContainsRune(level, 0) {
		return unusable("LOG_LEVEL_INVALID", "log level exceeds 32 bytes or has a NUL")
	}
	if t := spec.GetSandboxToken(); len(t) > 64<<10 {
		return unusable("TOKEN_TOO_LARGE", "sandbox token exceeds %d bytes", 64<<10)
	}
	return nil
}

// checkUsable refuses what this driver cannot do, rather than leave it out.
func (d *Driver) checkUsable(spec *computepb.DriverSandboxSpec) error {
	template := spec.GetTemplate()
	if spec.GetResourceRequirements().GetGpu() != nil || spec.GetGpuDevice() != "" {
		return unusable("GPU_UNSUPPORTED", "the process driver offers no GPU").WithNext("create the sandbox without a GPU")
	}
	if image := template.GetImage(); image != "" && image != Image {
		return unusable("IMAGE_UNSUPPORTED", "the process driver runs sandboxes on the machine's own files and has no image %q", image).
			WithNext("leave the image empty or use %q", Image)
	}
	for key, value := range template.GetPlatformConfig().GetFields() {
		switch key {
		case "annotations", "resources_raw":
			// The first describes, the second repeats and extends resources: see limitsOf.
		case "host_users":
			if !value.GetBoolValue() && !d.isolation.User {
				return unusable("USER_NAMESPACE_UNAVAILABLE", "a user namespace was asked for and does not work here: %s", d.isolation.Reason)
			}
		default:
			return unusable("PLATFORM_CONFIG_UNSUPPORTED", "the process driver cannot honour template setting %q", key).
				WithNext("remove %q from the template", key)
		}
	}
	if raw := template.GetPlatformConfig().GetFields()["resources_raw"].GetStructValue(); len(raw.GetFields()) > 0 {
		return unusable("RESOURCES_UNSUPPORTED", "the process driver limits cpu and memory only").
			WithNext("ask for no other resources")
	}
	if d.opts.Isolation == IsolationRequired && !d.isolation.complete() {
		return unusable("ISOLATION_UNAVAILABLE", "isolation is required and incomplete here (%s): %s", d.isolation, d.isolation.Reason).
			WithNext("give the driver the privileges it lacks, or start it with --isolation auto")
	}
	return nil
}

func (d *Driver) limitsOf(r *computepb.DriverResourceRequirements) (limits, error) {
	l := limits{Processes: d.opts.MaxProcesses}
	values := make([]int64, 4)
	for i, text := range []string{r.GetCpuLimit(), r.GetMemoryLimit(), r.GetCpuRequest(), r.GetMemoryRequest()} {
		if text == "" {
			continue
		}
		n, err := parseQuantity(text)
		if err != nil {
			return l, unusable("RESOURCES_INVALID", "resources: %v", err)
		}
		values[i] = n
	}
	// Requests guide the placing on a cluster; one machine has nothing to choose.
	l.CPUMillis, l.MemoryBytes = values[0], values[1]/1000
	switch {
	case r.GetCpuLimit() != "" && (l.CPUMillis < 1 || l.CPUMillis > 1e9):
		return l, unusable("RESOURCES_INVALID", "cpu limit %q is out of range", r.GetCpuLimit())
	case r.GetMemoryLimit() != "" && l.MemoryBytes < 1<<20:
		return l, unusable("RESOURCES_INVALID", "memory limit %q is below 1Mi", r.GetMemoryLimit())
	}
	if d.opts.Isolation == IsolationRequired {
		for i, name := range limitedBy {
			if l.values()[i] > 0 && !d.groups.has(name) && !d.limitsByUser(name) {
				return l, unusable("LIMITS_UNAVAILABLE", "a %s limit cannot be enforced here: %s", name, d.groups.missing([]string{name}))
			}
		}
	}
	return l, nil
}

// limitsByUser tells whether a resource limit stands in for a controller: of processes in a user namespace.
// Elsewhere it would count the processes of everybody with the same id.
func (d *Driver) limitsByUser(controller string) bool {
	return controller == "pids" && d.isolation.User && !d.groups.has(controller)
}

const tokenFile, caFile = "token", "gateway-ca.pem"

// supervisorEnv is the whole environment of a supervisor: the template's settings, over them the sandbox's,
// over them the driver's. Nothing of the driver's own environment is in it.
func (d *Driver) supervisorEnv(rec *record, dir string, iso isolation) ([]string, error) {
	user := maps.Clone(rec.TemplateEnv)
	if user == nil {
		user = make(map[string]string)
	}
	maps.Copy(user, rec.Env)

	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
	maps.Copy(env, user)
	// What the supervisor applies again to commands must not carry its own credential and settings.
	maps.DeleteFunc(user, func(k, _ string) bool {
		return strings.HasPrefix(k, "OPENSHELL_") || strings.HasPrefix(k, "SALLYPORT_")
	})
	userJSON, err := json.Marshal(user)
	if err != nil {
		return nil, fmt.Errorf("encode user environment: %w", err)
	}
	paths := sandboxinit.PathsFor(dir, d.opts.Supervisor, iso.Namespaces)
	maps.Copy(env, map[string]string{
		"HOME":                       paths.Work,
		"SALLYPORT_WORKDIR":          paths.Work,
		"SALLYPORT_SANDBOX_ID":       rec.ID,
		"OPENSHELL_SANDBOX_ID":       rec.ID,
		"OPENSHELL_SANDBOX":          rec.Name,
		"OPENSHELL_ENDPOINT":         d.opts.GatewayEndpoint,
		"OPENSHELL_SSH_SOCKET_PATH":  socketPath(paths),
		"OPENSHELL_USER_ENVIRONMENT": string(userJSON),
	})
	if rec.LogLevel != "" {
		env["OPENSHELL_LOG_LEVEL"] = rec.LogLevel
	}
	if rec.Token {
		env["OPENSHELL_SANDBOX_TOKEN_FILE"] = filepath.Join(paths.Run, tokenFile)
	}
	if d.opts.GatewayCA != "" {
		env["OPENSHELL_TLS_CA"] = filepath.Join(paths.Run, caFile)
	}
	if len(rec.Command) > 0 {
		main, err := json.Marshal(map[string]any{"version": 1, "command": rec.Command, "tty": rec.TTY})
		if err != nil {
			return nil, fmt.Errorf("encode main process: %w", err)
		}
		env["OPENSHELL_MAIN_PROCESS_SPEC"] = string(main)
	}
	name, value, _ := strings.Cut(rec.mark(), "=")
	env[name] = value
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list, nil
}

// socketPath is relative to the working directory where the absolute path would not fit into a socket address. A
// supervisor may bind below a temporary folder beside it first, which takes some ten bytes more.
func socketPath(paths sandboxinit.Paths) string {
	const name, longest = "ssh.sock", 96
	absolute := filepath.Join(paths.Run, name)
	if len(absolute) <= longest {
		return absolute
	}
	return filepath.Join("..", sandboxinit.RunDir, name)
}

var notInHostname = regexp.MustCompile(`[^a-z0-9-]+`)

func hostname(name string) string {
	name = notInHostname.ReplaceAllString(strings.ToLower(name), "-")
	name = strings.Trim(name[:min(len(name), 63)], "-")
	if name == "" {
		return "sandbox"
	}
	return name
}
