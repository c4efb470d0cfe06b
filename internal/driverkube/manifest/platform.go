package manifest

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	corev1 "k8s.io/api/core/v1"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Mount is a volume of the user's: a claim that exists and is labelled for it, a claim made from a template of the
// sandbox's own, or an empty folder.
type Mount struct {
	// Path is where, absolute and clean.
	Path string
	// Claim names a claim in the sandbox's namespace, Template one of volume_claim_templates.
	Claim    string
	Template string
	SubPath  string
	ReadOnly bool
}

// Bounds of what a sandbox may mount.
const (
	maxMounts    = 16
	maxTemplates = 8
)

// parsePlatform takes what the contract names for any platform of this kind.
func (p *plan) parsePlatform(spec *computepb.DriverSandboxSpec) error {
	for key, value := range spec.GetTemplate().GetPlatformConfig().GetFields() {
		switch key {
		case "annotations", "resources_raw":
			// See parseMetadata and parseResources.
		case "runtime_class_name":
			if !validSubdomain.MatchString(value.GetStringValue()) {
				return unusable("RUNTIME_CLASS_INVALID", "spec.template.runtime_class_name is no name of a runtime class")
			}
			p.runtimeClass = value.GetStringValue()
		case "host_users":
			if value.GetBoolValue() && p.s.UserNamespaces {
				return unusable("USER_NAMESPACE_REQUIRED", "spec.template.user_namespaces: the operator gives every sandbox a user namespace").
					WithNext("leave the setting out")
			}
			p.ownUsers = !value.GetBoolValue()
		case "volume_claim_templates":
			if err := p.parseTemplates(value); err != nil {
				return err
			}
		default:
			return unusable("PLATFORM_CONFIG_UNSUPPORTED", "the Kubernetes driver does not know the template setting %q", key).
				WithNext("remove %q from the template", key)
		}
	}
	return nil
}

// parseTemplates takes claim templates in Kubernetes' own form: a list, or an object whose only entry is the list, or
// an object of claim specs by name.
func (p *plan) parseTemplates(value *structpb.Value) error {
	const field = "spec.template.volume_claim_templates"
	list := value.GetListValue().GetValues()
	if fields := value.GetStructValue().GetFields(); len(fields) > 0 {
		for name, v := range fields {
			if l := v.GetListValue(); l != nil && len(fields) == 1 {
				list = l.GetValues()
				break
			}
			list = append(list, structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				"metadata": structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue(name)}}),
				"spec":     v,
			}}))
		}
	}
	if len(list) > maxTemplates {
		return unusable("CLAIM_TEMPLATE_INVALID", "%s has %d entries, at most %d are taken", field, len(list), maxTemplates)
	}
	for _, v := range list {
		raw, err := json.Marshal(v.AsInterface())
		if err != nil {
			return unusable("CLAIM_TEMPLATE_INVALID", "%s is no JSON", field)
		}
		var t ClaimTemplate
		if err := json.Unmarshal(raw, &t); err != nil {
			return unusable("CLAIM_TEMPLATE_INVALID", "%s is not of the form of a claim template", field).
				WithNext("give each template metadata.name and a spec")
		}
		switch {
		case !ValidName(t.Metadata.Name) || strings.HasPrefix(t.Metadata.Name, "openshell-"):
			return unusable("CLAIM_TEMPLATE_INVALID", "%s: %q cannot be the name of a volume", field, t.Metadata.Name)
		case slices.ContainsFunc(p.templates, func(o ClaimTemplate) bool { return o.Metadata.Name == t.Metadata.Name }):
			return unusable("CLAIM_TEMPLATE_INVALID", "%s: the name %q stands twice", field, t.Metadata.Name)
		case t.Spec.VolumeName != "" || t.Spec.DataSource != nil || t.Spec.DataSourceRef != nil || t.Spec.Selector != nil:
			return unusable("CLAIM_TEMPLATE_INVALID", "%s: %q must not name a volume or a source, which may be somebody else's", field, t.Metadata.Name)
		}
		if len(t.Spec.AccessModes) == 0 {
			t.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		}
		p.templates = append(p.templates, ClaimTemplate{Metadata: Metadata{Name: t.Metadata.Name}, Spec: t.Spec})
	}
	slices.SortFunc(p.templates, func(a, b ClaimTemplate) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return nil
}

// driverConfig is what a user may set for this driver alone.
type driverConfig struct {
	NodeSelector   map[string]string `json:"node_selector"`
	ReadOnlyRoot   bool              `json:"read_only_root"`
	RunAsUser      *int64            `json:"run_as_user"`
	RunAsGroup     *int64            `json:"run_as_group"`
	PullPolicy     string            `json:"image_pull_policy"`
	WorkspaceSize  *string           `json:"workspace_size"`
	WorkspaceClass *string           `json:"workspace_class"`
	Mounts         []struct {
		Path     string `json:"path"`
		Claim    string `json:"claim"`
		Template string `json:"template"`
		SubPath  string `json:"sub_path"`
		ReadOnly bool   `json:"read_only"`
	} `json:"mounts"`
}

const driverField = "spec.template.driver_config."

func (p *plan) parseDriverConfig(spec *computepb.DriverSandboxSpec) error {
	in := spec.GetTemplate().GetDriverConfig()
	if len(in.GetFields()) > 0 {
		raw, err := json.Marshal(in.AsMap())
		if err != nil {
			return unusable("DRIVER_CONFIG_INVALID", "spec.template.driver_config is no JSON")
		}
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.DisallowUnknownFields()
		var c driverConfig
		if err := d.Decode(&c); err != nil {
			return unusable("DRIVER_CONFIG_INVALID", "spec.template.driver_config: %s", strings.TrimPrefix(err.Error(), "json: ")).
				WithNext("the Kubernetes driver takes node_selector, read_only_root, run_as_user, run_as_group, image_pull_policy, workspace_size, workspace_class and mounts")
		}
		if err := p.applyDriverConfig(&c); err != nil {
			return err
		}
	}
	// A template that nothing mounts would be made for nothing.
	for _, t := range p.templates {
		if t.Metadata.Name != WorkspaceVolume && !slices.ContainsFunc(p.extra, func(m Mount) bool { return m.Template == t.Metadata.Name }) {
			return unusable("CLAIM_TEMPLATE_INVALID", "spec.template.volume_claim_templates: nothing mounts %q", t.Metadata.Name).
				WithNext("name it %q, which is mounted at %s, or add it to driver_config.mounts with a path", WorkspaceVolume, WorkspacePath)
		}
	}
	return nil
}

func (p *plan) applyDriverConfig(c *driverConfig) error {
	if len(c.NodeSelector) > 0 && p.nodeSelector == nil {
		p.nodeSelector = make(map[string]string)
	}
	for key, value := range c.NodeSelector {
		if !validKey(key) || value != "" && !ValidLabel(value) {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"node_selector: %q or its value is no label", key)
		}
		if own, ok := p.s.NodeSelector[key]; ok && own != value {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"node_selector: the operator decides about %q", key)
		}
		p.nodeSelector[key] = value
	}
	p.readOnlyRoot = c.ReadOnlyRoot
	if err := p.applyUser(c); err != nil {
		return err
	}
	if c.PullPolicy != "" {
		p.pullPolicy = corev1.PullPolicy(c.PullPolicy)
		if !slices.Contains([]corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}, p.pullPolicy) {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"image_pull_policy must be Always, IfNotPresent or Never")
		}
	}
	if c.WorkspaceSize != nil {
		size, err := quantity(driverField+"workspace_size", *c.WorkspaceSize)
		if err != nil {
			return err
		}
		p.workspaceSize = size
	}
	if c.WorkspaceClass != nil {
		if !validSubdomain.MatchString(*c.WorkspaceClass) {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"workspace_class is no name of a storage class")
		}
		p.workspaceClass = *c.WorkspaceClass
	}
	return p.applyMounts(c)
}

func (p *plan) applyUser(c *driverConfig) error {
	const most = 1<<31 - 1
	for _, part := range []struct {
		field string
		value *int64
	}{{"run_as_user", c.RunAsUser}, {"run_as_group", c.RunAsGroup}} {
		if part.value == nil {
			continue
		}
		if p.s.UID < 0 {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"%s: the platform chooses the user here", part.field)
		}
		if *part.value > most || *part.value < 0 || *part.value == 0 && p.s.Level == Restricted {
			return unusable("DRIVER_CONFIG_INVALID", driverField+"%s must be a number above 0 at the Pod Security level %s", part.field, p.s.Level)
		}
	}
	if c.RunAsUser != nil {
		p.uid, p.gid = *c.RunAsUser, *c.RunAsUser
	}
	if c.RunAsGroup != nil {
		p.gid = *c.RunAsGroup
	}
	return nil
}

func (p *plan) applyMounts(c *driverConfig) error {
	if len(c.Mounts) > maxMounts {
		return unusable("MOUNT_INVALID", driverField+"mounts has %d entries, at most %d are taken", len(c.Mounts), maxMounts)
	}
	for i, in := range c.Mounts {
		m := Mount{Path: path.Clean(in.Path), Claim: in.Claim, Template: in.Template, SubPath: in.SubPath, ReadOnly: in.ReadOnly}
		switch {
		case !path.IsAbs(in.Path) || len(in.Path) > 1024 || !printable(in.Path) || strings.Contains(in.Path, ":") || p.occupied(m.Path):
			return unusable("MOUNT_INVALID", driverField+"mounts[%d].path: %q cannot be mounted over", i, in.Path).
				WithNext("give an absolute path, such as /data or one below %s", WorkspacePath)
		case in.SubPath != "" && (path.IsAbs(in.SubPath) || strings.Contains("/"+in.SubPath+"/", "/../") || !printable(in.SubPath)):
			return unusable("MOUNT_INVALID", driverField+"mounts[%d].sub_path must be relative and stay inside the volume", i)
		case in.Claim != "" && in.Template != "":
			return unusable("MOUNT_INVALID", driverField+"mounts[%d]: give claim or template, not both", i)
		case in.Claim != "" && !validSubdomain.MatchString(in.Claim):
			return unusable("MOUNT_INVALID", driverField+"mounts[%d].claim is no name of a claim", i)
		case in.Template != "" && !slices.ContainsFunc(p.templates, func(t ClaimTemplate) bool { return t.Metadata.Name == in.Template }):
			return unusable("MOUNT_INVALID", driverField+"mounts[%d].template: no claim template is named %q", i, in.Template)
		case slices.ContainsFunc(p.extra, func(o Mount) bool { return o.Path == m.Path }):
			return unusable("MOUNT_INVALID", driverField+"mounts: %q stands twice", m.Path)
		}
		p.extra = append(p.extra, m)
	}
	return nil
}

// occupied tells whether a path is, holds or lies in what the pod itself needs.
func (p *plan) occupied(at string) bool {
	for _, needed := range []string{p.s.Supervisor.MountPath, tokenDir, tlsDir, runDir, "/proc", "/sys", "/dev", "/var/run/secrets/kubernetes.io"} {
		if at == needed || strings.HasPrefix(needed, strings.TrimSuffix(at, "/")+"/") || strings.HasPrefix(at, needed+"/") {
			return true
		}
	}
	return at == "/"
}

// Claims returns the existing claims that a sandbox mounts.
func Claims(s *Settings, sb *computepb.DriverSandbox) ([]string, error) {
	p, err := parse(s, sb)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range p.extra {
		if m.Claim != "" && !slices.Contains(names, m.Claim) {
			names = append(names, m.Claim)
		}
	}
	return names, nil
}
