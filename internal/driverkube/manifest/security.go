package manifest

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func (p *plan) podSecurity() *corev1.PodSecurityContext {
	sc := &corev1.PodSecurityContext{}
	if p.s.Level != Privileged {
		sc.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	if p.s.Level == Restricted {
		nonRoot := true
		sc.RunAsNonRoot = &nonRoot
	}
	if p.uid >= 0 {
		uid, gid := p.uid, p.gid
		sc.RunAsUser, sc.RunAsGroup, sc.FSGroup = &uid, &gid, &gid
		// Only what a claim lacks is changed, or a large one would take minutes at each start.
		policy := corev1.FSGroupChangeOnRootMismatch
		sc.FSGroupChangePolicy = &policy
	}
	return sc
}

// containerSecurity is the same for all containers but that only the main one gets what the operator added.
func (p *plan) containerSecurity(main bool) *corev1.SecurityContext {
	off, on := false, true
	sc := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &off,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	if main && p.readOnlyRoot {
		sc.ReadOnlyRootFilesystem = &on
	}
	if main {
		for _, c := range p.s.Capabilities {
			sc.Capabilities.Add = append(sc.Capabilities.Add, corev1.Capability(c))
		}
	}
	return sc
}

// Degraded begins the text of an isolation that is less than the driver's strictest.
const Degraded = "missing: "

// isolation tells what shuts the sandbox in, and what is missing, for its status.
func (p *plan) isolation() string {
	words := []string{"pod-security=" + p.s.Level}
	if p.uid >= 0 {
		words = append(words, "user="+strconv.FormatInt(p.uid, 10))
	} else {
		words = append(words, "user=platform")
	}
	var missing []string
	if len(p.s.Capabilities) > 0 {
		words = append(words, "capabilities="+strings.Join(p.s.Capabilities, ","))
		missing = append(missing, "the operator added capabilities")
	} else {
		words = append(words, "capabilities=none")
	}
	if p.s.Level == Privileged {
		words = append(words, "seccomp=none")
		missing = append(missing, "no seccomp profile")
	} else {
		words = append(words, "seccomp=RuntimeDefault")
	}
	if p.uid == 0 {
		missing = append(missing, "processes run as root")
	}
	if p.ownUsers {
		words = append(words, "user-namespace=own")
	} else {
		words = append(words, "user-namespace=host")
	}
	root := "root-filesystem=writable"
	if p.readOnlyRoot {
		root = "root-filesystem=read-only"
	}
	words = append(words, root)
	if p.runtimeClass != "" {
		words = append(words, "runtime="+p.runtimeClass)
	}
	text := strings.Join(append(words, "network=pod"), " ") + "; network: what the cluster's network policies allow (no egress control by the supervisor yet)"
	if len(missing) > 0 {
		text += "; " + Degraded + strings.Join(missing, ", ")
	}
	return text
}
