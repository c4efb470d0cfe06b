package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Names inside the pod. Tools know the container and the volumes by them.
const (
	Container          = "agent"
	InstallContainer   = "openshell-supervisor-install"
	SeedContainer      = "workspace-init"
	volumeSupervisor   = "openshell-supervisor-bin"
	volumeToken        = "openshell-sa-token"
	volumeTLS          = "openshell-client-tls"
	volumeRun          = "openshell-run"
	volumeTemp         = "openshell-tmp"
	WorkspaceVolume    = "workspace"
	WorkspacePath      = "/sandbox"
	tokenDir           = "/var/run/secrets/openshell"
	tlsDir             = "/etc/openshell-tls/client"
	runDir             = "/run/openshell"
	seedDir            = "/workspace-pvc"
	supervisorName     = "openshell-sandbox"
	resourceGPU        = "nvidia.com/gpu"
	secretMode         = int32(0o400)
	terminationSeconds = int64(10)
)

// Target is where an object goes.
type Target struct {
	APIVersion string
	Namespace  string
	// Shared tells that the namespace holds sandboxes of many workspaces.
	Shared bool
}

// Build returns the object of a sandbox. The error is a fault that names the field.
func Build(s *Settings, sb *computepb.DriverSandbox, to Target) (*Sandbox, error) {
	p, err := parse(s, sb)
	if err != nil {
		return nil, err
	}
	labels := p.identity()
	pod, err := p.pod()
	if err != nil {
		return nil, err
	}
	podLabels := maps.Clone(p.labels)
	if podLabels == nil {
		podLabels = make(map[string]string)
	}
	maps.Copy(podLabels, labels)
	annotations := map[string]string{
		LabelID: p.id, LabelName: p.name, LabelWorkspace: p.workspace, AnnotationIsolation: p.isolation(),
	}
	podAnnotations := maps.Clone(p.annotations)
	if podAnnotations == nil {
		podAnnotations = make(map[string]string)
	}
	podAnnotations[AnnotationPodID] = p.id
	return &Sandbox{
		APIVersion: to.APIVersion, Kind: "Sandbox",
		Metadata: Metadata{
			Name: ObjectName(p.workspace, p.name, to.Shared), Namespace: to.Namespace, Labels: labels, Annotations: annotations,
		},
		Spec: Spec{
			PodTemplate:          PodTemplate{Metadata: Metadata{Labels: podLabels, Annotations: podAnnotations}, Spec: pod},
			VolumeClaimTemplates: p.claims(),
		},
	}, nil
}

// identity are the labels that object and pod have.
func (p *plan) identity() map[string]string {
	return map[string]string{
		LabelManagedBy: ManagedBy, LabelID: p.id, LabelName: labelValue(p.name), LabelWorkspace: labelValue(p.workspace),
		LabelGateway: p.s.GatewayID, LabelTenant: labelValue(p.s.Tenant),
	}
}

func (p *plan) pod() (corev1.PodSpec, error) {
	env, err := p.env()
	if err != nil {
		return corev1.PodSpec{}, err
	}
	off, seconds := false, terminationSeconds
	spec := corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyOnFailure,
		ServiceAccountName:            p.s.ServiceAccount,
		AutomountServiceAccountToken:  &off,
		EnableServiceLinks:            &off,
		TerminationGracePeriodSeconds: &seconds,
		SecurityContext:               p.podSecurity(),
		NodeSelector:                  p.nodeSelector,
		Tolerations:                   p.s.Tolerations,
		Volumes:                       p.volumes(),
		InitContainers:                p.initContainers(),
		Containers: []corev1.Container{{
			Name: Container, Image: p.image, ImagePullPolicy: p.pullPolicy,
			Command: []string{p.supervisor()}, WorkingDir: WorkspacePath, Env: env,
			Resources: p.resources, VolumeMounts: p.mounts(), SecurityContext: p.containerSecurity(true),
		}},
	}
	if p.runtimeClass != "" {
		spec.RuntimeClassName = &p.runtimeClass
	}
	if p.ownUsers {
		spec.HostUsers = &off
	}
	for _, name := range p.s.PullSecrets {
		spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if p.s.HostGatewayIP != "" {
		spec.HostAliases = []corev1.HostAlias{{
			IP: p.s.HostGatewayIP, Hostnames: []string{"host.openshell.internal", "host.docker.internal"},
		}}
	}
	return spec, nil
}

// supervisor is where the pod has the program.
func (p *plan) supervisor() string {
	if p.s.Supervisor.Volume {
		return path.Join(p.s.Supervisor.MountPath, p.s.Supervisor.Path)
	}
	return path.Join(p.s.Supervisor.MountPath, supervisorName)
}

func (p *plan) initContainers() []corev1.Container {
	var all []corev1.Container
	mount := corev1.VolumeMount{Name: volumeSupervisor, MountPath: p.s.Supervisor.MountPath}
	if !p.s.Supervisor.Volume {
		all = append(all, corev1.Container{
			Name: InstallContainer, Image: p.s.Supervisor.Image, ImagePullPolicy: p.s.Supervisor.PullPolicy,
			Command:      []string{p.s.Supervisor.Path, "copy-self", p.supervisor()},
			Resources:    p.initResources(),
			VolumeMounts: []corev1.VolumeMount{mount}, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			SecurityContext: p.containerSecurity(false),
		})
	}
	if p.seeds() {
		mount.ReadOnly = true
		all = append(all, corev1.Container{
			Name: SeedContainer, Image: p.image, ImagePullPolicy: p.pullPolicy,
			// The image may have no shell: the supervisor copies.
			Command:      []string{p.supervisor(), "seed", WorkspacePath, seedDir},
			Resources:    p.initResources(),
			VolumeMounts: []corev1.VolumeMount{mount, {Name: WorkspaceVolume, MountPath: seedDir}},
			// These containers write nothing of the user's; the main one's last words stay in its log.
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			SecurityContext:          p.containerSecurity(false),
		})
	}
	return all
}

// initResources are the main container's without devices, so that a quota that asks every container for a request
// gets one, and the pod needs no more than it does anyway.
func (p *plan) initResources() corev1.ResourceRequirements {
	only := func(in corev1.ResourceList) corev1.ResourceList {
		out := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := in[name]; ok {
				out[name] = q
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	}
	return corev1.ResourceRequirements{Requests: only(p.resources.Requests), Limits: only(p.resources.Limits)}
}

// env is everything that the supervisor reads. The user's variables travel as one, and neither they nor anything
// else holds a credential: whoever may read pods may read them.
func (p *plan) env() ([]corev1.EnvVar, error) {
	user, err := json.Marshal(p.environment)
	if err != nil {
		return nil, fmt.Errorf("encode user environment: %w", err)
	}
	if len(user) > maxVariable {
		return nil, unusable("ENVIRONMENT_TOO_LARGE", "spec.environment and spec.template.environment have %d bytes together, a pod takes %d", len(user), maxVariable).
			WithNext("put large values into files of the image or of a volume")
	}
	env := map[string]string{
		"SALLYPORT_WORKDIR":           WorkspacePath,
		"HOME":                        WorkspacePath,
		"OPENSHELL_SANDBOX_ID":        p.id,
		"OPENSHELL_SANDBOX":           p.name,
		"OPENSHELL_ENDPOINT":          p.s.GatewayEndpoint,
		"OPENSHELL_SSH_SOCKET_PATH":   path.Join(runDir, "ssh.sock"),
		"OPENSHELL_K8S_SA_TOKEN_FILE": path.Join(tokenDir, "token"),
		"OPENSHELL_CONTAINER_IMAGE":   p.image,
		"OPENSHELL_USER_ENVIRONMENT":  string(user),
	}
	if p.logLevel != "" {
		env["OPENSHELL_LOG_LEVEL"] = p.logLevel
	}
	if p.s.CASecret != "" {
		env["OPENSHELL_TLS_CA"] = path.Join(tlsDir, "ca.crt")
	}
	if p.s.ClientSecret != "" {
		env["OPENSHELL_TLS_CERT"] = path.Join(tlsDir, "tls.crt")
		env["OPENSHELL_TLS_KEY"] = path.Join(tlsDir, "tls.key")
	}
	if len(p.command) > 0 {
		main, err := json.Marshal(map[string]any{"version": 1, "command": p.command, "tty": p.tty})
		if err != nil {
			return nil, fmt.Errorf("encode main process: %w", err)
		}
		if len(main) > maxVariable {
			return nil, unusable("COMMAND_TOO_LARGE", "spec.command has %d bytes, a pod takes %d", len(main), maxVariable)
		}
		env["OPENSHELL_MAIN_PROCESS_SPEC"] = string(main)
	}
	out := make([]corev1.EnvVar, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		// Kubernetes would replace $(NAME) in a value.
		out = append(out, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(env[name], "$", "$$")})
	}
	return out, nil
}
