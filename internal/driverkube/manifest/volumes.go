package manifest

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// workspaceOwn tells that the driver provides /sandbox, as the user says nothing about it.
func (p *plan) workspaceOwn() bool {
	return !p.mountsWorkspace() &&
		!slices.ContainsFunc(p.templates, func(t ClaimTemplate) bool { return t.Metadata.Name == WorkspaceVolume })
}

// claimed tells that the workspace is a claim of its own.
func (p *plan) claimed() bool { return p.workspaceOwn() && !p.workspaceSize.IsZero() }

// seeds tells that the workspace is filled from the image. A user's own claim is left as it is.
func (p *plan) seeds() bool { return p.s.Seed && p.workspaceOwn() }

// claims are the templates of the claims that go with the sandbox.
func (p *plan) claims() []ClaimTemplate {
	all := slices.Clone(p.templates)
	if p.claimed() {
		spec := corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: p.workspaceSize}},
		}
		if p.workspaceClass != "" {
			spec.StorageClassName = &p.workspaceClass
		}
		all = append(all, ClaimTemplate{Metadata: Metadata{Name: WorkspaceVolume}, Spec: spec})
	}
	for i := range all {
		all[i].Metadata.Labels = p.identity()
	}
	return all
}

// volumes are those of the pod. The controller adds one for each claim template.
func (p *plan) volumes() []corev1.Volume {
	seconds, mode := p.s.TokenSeconds, secretMode
	small := resource.MustParse("16Mi")
	all := []corev1.Volume{
		p.supervisorVolume(),
		{Name: volumeToken, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: &mode,
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: p.s.TokenAudience, ExpirationSeconds: &seconds, Path: "token",
			}}},
		}}},
		{Name: volumeRun, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: &small,
		}}},
	}
	if tls := p.tlsSources(); len(tls) > 0 {
		all = append(all, corev1.Volume{Name: volumeTLS, VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: tls},
		}})
	}
	if p.workspaceOwn() && !p.claimed() {
		all = append(all, emptyDir(WorkspaceVolume))
	}
	if p.readOnlyRoot {
		all = append(all, emptyDir(volumeTemp))
	}
	for i, m := range p.extra {
		switch {
		case m.Claim != "":
			all = append(all, corev1.Volume{Name: extraName(i), VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: m.Claim, ReadOnly: m.ReadOnly},
			}})
		case m.Template == "":
			all = append(all, emptyDir(extraName(i)))
		}
	}
	return all
}

func extraName(i int) string { return fmt.Sprintf("openshell-mount-%d", i) }

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}

func (p *plan) supervisorVolume() corev1.Volume {
	if p.s.Supervisor.Volume {
		return corev1.Volume{Name: volumeSupervisor, VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{
			Reference: p.s.Supervisor.Image, PullPolicy: p.s.Supervisor.PullPolicy,
		}}}
	}
	return emptyDir(volumeSupervisor)
}

// tlsSources take single keys out of the secrets: that of the authority may be the gateway's own, whose private key
// is nobody's business in a sandbox.
func (p *plan) tlsSources() []corev1.VolumeProjection {
	take := func(secret string, keys ...string) corev1.VolumeProjection {
		items := make([]corev1.KeyToPath, 0, len(keys))
		for _, k := range keys {
			items = append(items, corev1.KeyToPath{Key: k, Path: k})
		}
		return corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Items: items,
		}}
	}
	var all []corev1.VolumeProjection
	if p.s.CASecret != "" {
		all = append(all, take(p.s.CASecret, "ca.crt"))
	}
	if p.s.ClientSecret != "" {
		all = append(all, take(p.s.ClientSecret, "tls.crt", "tls.key"))
	}
	return all
}

// mounts are those of the main container.
func (p *plan) mounts() []corev1.VolumeMount {
	all := []corev1.VolumeMount{
		{Name: volumeSupervisor, MountPath: p.s.Supervisor.MountPath, ReadOnly: true},
		{Name: volumeToken, MountPath: tokenDir, ReadOnly: true},
		{Name: volumeRun, MountPath: runDir},
	}
	if len(p.tlsSources()) > 0 {
		all = append(all, corev1.VolumeMount{Name: volumeTLS, MountPath: tlsDir, ReadOnly: true})
	}
	if p.readOnlyRoot {
		all = append(all, corev1.VolumeMount{Name: volumeTemp, MountPath: "/tmp"})
	}
	if !p.mountsWorkspace() {
		all = append(all, corev1.VolumeMount{Name: WorkspaceVolume, MountPath: WorkspacePath})
	}
	for i, m := range p.extra {
		name := extraName(i)
		if m.Template != "" {
			name = m.Template
		}
		all = append(all, corev1.VolumeMount{Name: name, MountPath: m.Path, SubPath: m.SubPath, ReadOnly: m.ReadOnly})
	}
	return all
}

// mountsWorkspace tells that the user says what is at /sandbox.
func (p *plan) mountsWorkspace() bool {
	return slices.ContainsFunc(p.extra, func(m Mount) bool { return m.Path == WorkspacePath })
}
