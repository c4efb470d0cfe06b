package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// Labels of Sandbox objects and their pods. Network policies and other tools select by them.
const (
	LabelManagedBy = "openshell.ai/managed-by"
	LabelID        = "openshell.ai/sandbox-id"
	LabelName      = "openshell.ai/sandbox-name"
	LabelWorkspace = "openshell.ai/sandbox-workspace"
	LabelGateway   = "openshell.ai/gateway-id"
	LabelTenant    = "openshell.ai/tenant"
	// LabelMountable is what a claim has that sandboxes may mount: "true", or the workspace that may.
	LabelMountable = "openshell.ai/mountable"
	// LabelServes is what a namespace has whose workspace the operator chose.
	LabelServes = "openshell.ai/workspace"

	// ManagedBy is the value of LabelManagedBy.
	ManagedBy = "openshell"
)

// Annotations. The gateway reads AnnotationPodID of a pod to know which sandbox its token speaks for; id, name and
// workspace stand under their labels' names too, because a label's value may be shortened.
const (
	AnnotationPodID     = "openshell.io/sandbox-id"
	AnnotationIsolation = "openshell.ai/isolation"
)

// FieldManager is the manager of what the driver changes later; a new object belongs to ManagerOf its sandbox.
const FieldManager = "sallyport-driver-kubernetes"

// ManagerOf is the field manager of a sandbox's object. As each sandbox has its own, two that race for one name meet
// in a conflict, and neither overwrites the other.
func ManagerOf(id string) string { return FieldManager + "/" + id }

// maxName is the longest name of an object: it becomes the pod's host name.
const maxName = 63

var (
	validLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
	validDNS   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	notDNS     = regexp.MustCompile(`[^a-z0-9]+`)
)

// ValidLabel tells whether a text can be the value of a label, which an empty one is not here.
func ValidLabel(text string) bool { return validLabel.MatchString(text) }

// ValidName tells whether a text can be the name of a namespace, and so of most objects.
func ValidName(text string) bool { return validDNS.MatchString(text) }

// ObjectName is the name of a sandbox's object: with its workspace where many workspaces share a namespace. What is
// too long, or has characters that no name may have, is shortened and told apart by a hash of the whole.
func ObjectName(workspace, name string, shared bool) string {
	full := name
	if shared {
		full = workspace + "--" + name
	}
	if validDNS.MatchString(full) {
		return full
	}
	return fit(full, "s", notDNS)
}

// labelValue is the text itself where a label can hold it, else a shortened one with a hash.
func labelValue(text string) string {
	if text == "" || validLabel.MatchString(text) {
		return text
	}
	return fit(text, "x", notDNS)
}

// fit makes a name of what is none, never the same of two texts.
func fit(text, otherwise string, bad *regexp.Regexp) string {
	sum := sha256.Sum256([]byte(text))
	hash := hex.EncodeToString(sum[:])[:10]
	head := strings.Trim(bad.ReplaceAllString(strings.ToLower(text), "-"), "-")
	head = strings.TrimRight(head[:min(len(head), maxName-len(hash)-1)], "-")
	if head == "" {
		head = otherwise
	}
	return head + "-" + hash
}

// reservedPrefixes are the prefixes of labels and annotations that belong to the driver, to Kubernetes or to the
// Sandbox controller.
var reservedPrefixes = []string{
	"openshell.ai", "openshell.io", "sallyport.dev", "kubernetes.io", "k8s.io", "agents.x-k8s.io", "openshift.io",
}

// reserved tells whether users may not set a label or annotation of this name.
func reserved(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	for _, p := range reservedPrefixes {
		if prefix == p || strings.HasSuffix(prefix, "."+p) {
			return true
		}
	}
	return false
}
