package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/fault"
)

// Bounds of what a gateway may ask for; gateways have stricter ones for their users.
const (
	maxNameBytes = 253
	maxEnv       = 512
	maxArgs      = 1024
	// maxVariable is the longest value of one variable: the kernel takes 128 KiB with its name.
	maxVariable = 120 << 10
	maxPairs    = 64
	maxImage    = 1024
)

// plan is a sandbox with everything decided.
type plan struct {
	s *Settings

	id, name, workspace string
	logLevel            string
	environment         map[string]string
	command             []string
	tty                 bool

	image               string
	pullPolicy          corev1.PullPolicy
	labels, annotations map[string]string
	resources           corev1.ResourceRequirements

	runtimeClass   string
	nodeSelector   map[string]string
	ownUsers       bool
	readOnlyRoot   bool
	uid, gid       int64
	workspaceSize  resource.Quantity
	workspaceClass string
	extra          []Mount
	templates      []ClaimTemplate
}

func unusable(reason, format string, args ...any) *fault.Error {
	return fault.New(fault.FailedPrecondition, reason, format, args...)
}

func invalid(reason, format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidArgument, reason, format, args...)
}

// parse checks everything that can be checked without the cluster.
func parse(s *Settings, sb *computepb.DriverSandbox) (*plan, error) {
	spec := sb.GetSpec()
	switch {
	case sb == nil:
		return nil, invalid("SANDBOX_MISSING", "sandbox is required")
	case spec == nil:
		return nil, invalid("SPEC_MISSING", "spec is required")
	case !ValidLabel(sb.GetId()):
		return nil, invalid("SANDBOX_ID_INVALID", "sandbox id must be 1 to 63 letters, digits, hyphens, dots or underscores")
	case sb.GetName() == "" || len(sb.GetName()) > maxNameBytes || !printable(sb.GetName()):
		return nil, invalid("SANDBOX_NAME_INVALID", "sandbox name must have 1 to %d bytes and no control characters", maxNameBytes)
	case len(sb.GetWorkspace()) > maxNameBytes || !printable(sb.GetWorkspace()):
		return nil, invalid("WORKSPACE_INVALID", "workspace must have at most %d bytes and no control characters", maxNameBytes)
	}
	p := &plan{
		s: s, id: sb.GetId(), name: sb.GetName(), workspace: Workspace(sb.GetWorkspace()),
		command: spec.GetCommand(), tty: spec.GetTty(), logLevel: spec.GetLogLevel(),
		pullPolicy: s.ImagePullPolicy, runtimeClass: s.RuntimeClass, nodeSelector: maps.Clone(s.NodeSelector),
		ownUsers: s.UserNamespaces, uid: s.UID, gid: s.UID, workspaceSize: s.WorkspaceSize, workspaceClass: s.WorkspaceClass,
	}
	for _, step := range []func(*computepb.DriverSandboxSpec) error{
		p.parseStrings, p.parseImage, p.parseMetadata, p.parseResources, p.parsePlatform, p.parseDriverConfig,
	} {
		if err := step(spec); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Workspace is the workspace of a sandbox whose gateway has none.
func Workspace(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

var validVariable = regexp.MustCompile(`^[^=\x00]+$`)

// parseStrings takes the user's variables, the sandbox's before the template's, and leaves out what belongs to the
// gateway and the driver: among it a token that must not stand in a pod.
func (p *plan) parseStrings(spec *computepb.DriverSandboxSpec) error {
	p.environment = make(map[string]string)
	for _, part := range []struct {
		field string
		env   map[string]string
	}{{"spec.template.environment", spec.GetTemplate().GetEnvironment()}, {"spec.environment", spec.GetEnvironment()}} {
		for k, v := range part.env {
			if !validVariable.MatchString(k) || strings.ContainsRune(v, 0) {
				return unusable("ENVIRONMENT_INVALID", "%s: name %q or its value cannot be given to a process", part.field, k)
			}
			if !strings.HasPrefix(k, "OPENSHELL_") && !strings.HasPrefix(k, "SALLYPORT_") {
				p.environment[k] = v
			}
		}
	}
	if len(p.environment) > maxEnv {
		return unusable("ENVIRONMENT_TOO_LARGE", "spec.environment and spec.template.environment have %d names together, at most %d are taken", len(p.environment), maxEnv)
	}
	for _, arg := range p.command {
		if strings.ContainsRune(arg, 0) {
			return unusable("COMMAND_INVALID", "spec.command has a NUL in an argument")
		}
	}
	if len(p.command) > maxArgs {
		return unusable("COMMAND_TOO_LARGE", "spec.command has %d arguments, at most %d are taken", len(p.command), maxArgs)
	}
	if len(p.logLevel) > 32 || !printable(p.logLevel) {
		return unusable("LOG_LEVEL_INVALID", "spec.log_level exceeds 32 bytes or has control characters")
	}
	return nil
}

func (p *plan) parseImage(spec *computepb.DriverSandboxSpec) error {
	p.image = spec.GetTemplate().GetImage()
	if p.image == "" {
		p.image = p.s.DefaultImage
	}
	if p.image == "" {
		return unusable("IMAGE_MISSING", "spec.template.image is empty and the driver has no default image").
			WithNext("name an image, or start the driver with --default-image")
	}
	if len(p.image) > maxImage || strings.ContainsFunc(p.image, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
		return unusable("IMAGE_INVALID", "spec.template.image is no reference to an image").
			WithNext("write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST")
	}
	return nil
}

// parseMetadata takes the template's labels and annotations.
func (p *plan) parseMetadata(spec *computepb.DriverSandboxSpec) error {
	p.labels = spec.GetTemplate().GetLabels()
	p.annotations = make(map[string]string)
	for key, value := range spec.GetTemplate().GetPlatformConfig().GetFields()["annotations"].GetStructValue().GetFields() {
		p.annotations[key] = value.GetStringValue()
	}
	for _, part := range []struct {
		field string
		pairs map[string]string
		label bool
	}{{"spec.template.labels", p.labels, true}, {"spec.template.annotations", p.annotations, false}} {
		if len(part.pairs) > maxPairs {
			return unusable("METADATA_TOO_LARGE", "%s has %d entries, at most %d are taken", part.field, len(part.pairs), maxPairs)
		}
		for _, key := range slices.Sorted(maps.Keys(part.pairs)) {
			value := part.pairs[key]
			switch {
			case reserved(key):
				return unusable("METADATA_RESERVED", "%s: %q has a prefix that belongs to the driver or to Kubernetes", part.field, key).
					WithNext("choose a name with a prefix of your own or without one")
			case !validKey(key), part.label && value != "" && !ValidLabel(value):
				return unusable("METADATA_INVALID", "%s: %q or its value is not allowed in Kubernetes", part.field, key).
					WithNext("labels are letters, digits, hyphens, dots and underscores, at most 63 of them")
			}
		}
	}
	return nil
}

// validKey tells whether a text can be the name of a label or an annotation.
func validKey(key string) bool {
	prefix, name, ok := strings.Cut(key, "/")
	if !ok {
		return validLabel.MatchString(key)
	}
	return len(prefix) <= maxNameBytes && validLabel.MatchString(name) && validSubdomain.MatchString(prefix)
}

var validSubdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
