package driverkube

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/fault"
)

// Names of what a managed namespace is furnished with.
const (
	quotaName   = "openshell-workspace"
	limitsName  = "openshell-workspace"
	ingressName = "openshell-no-ingress"
)

// Requests of containers that name none, in a managed namespace: its quota counts requests.
const (
	defaultCPU    = "100m"
	defaultMemory = "128Mi"
)

// object is any object in the form that is applied.
type object struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   manifest.Metadata `json:"metadata"`
	Spec       any               `json:"spec,omitempty"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data,omitempty"`
	Automount  *bool             `json:"automountServiceAccountToken,omitempty"`
}

func (o *Options) spaceLabels(workspace string) map[string]string {
	return map[string]string{
		manifest.LabelManagedBy: manifest.ManagedBy, manifest.LabelGateway: o.GatewayID, manifest.LabelServes: workspace,
	}
}

func (o *Options) namespaceObject(name, workspace string) *object {
	labels := o.spaceLabels(workspace)
	// The cluster itself refuses what the driver would not make.
	for _, mode := range []string{"enforce", "warn"} {
		labels["pod-security.kubernetes.io/"+mode] = o.PodSecurity
	}
	return &object{APIVersion: "v1", Kind: "Namespace", Metadata: manifest.Metadata{Name: name, Labels: labels}}
}

// furnish makes everything that a managed namespace needs before its first sandbox, and repairs it.
func (s *spaces) furnish(ctx context.Context, name, workspace string) error {
	o := &s.d.opts
	meta := func(n string) manifest.Metadata {
		return manifest.Metadata{Name: n, Namespace: name, Labels: o.spaceLabels(workspace)}
	}
	off := false
	amounts := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	all := []struct {
		kubeapi.Resource
		object *object
	}{
		{kubeapi.Resource{GroupVersion: "v1", Plural: "serviceaccounts"}, &object{
			APIVersion: "v1", Kind: "ServiceAccount", Metadata: meta(o.ServiceAccount), Automount: &off,
		}},
		{kubeapi.Resource{GroupVersion: "v1", Plural: "limitranges"}, &object{
			APIVersion: "v1", Kind: "LimitRange", Metadata: meta(limitsName),
			Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
				Type: corev1.LimitTypeContainer, DefaultRequest: amounts(defaultCPU, defaultMemory),
			}}},
		}},
		// Nobody has to reach a sandbox: its supervisor dials out.
		{kubeapi.Resource{GroupVersion: "networking.k8s.io/v1", Plural: "networkpolicies"}, &object{
			APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Metadata: meta(ingressName),
			Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{manifest.LabelManagedBy: manifest.ManagedBy}},
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			},
		}},
	}
	if hard := o.quota(); len(hard) > 0 {
		all = append(all, struct {
			kubeapi.Resource
			object *object
		}{kubeapi.Resource{GroupVersion: "v1", Plural: "resourcequotas"}, &object{
			APIVersion: "v1", Kind: "ResourceQuota", Metadata: meta(quotaName), Spec: corev1.ResourceQuotaSpec{Hard: hard},
		}})
	}
	for _, a := range all {
		_, err := s.d.api.Apply(ctx, a.Resource, name, a.object.Metadata.Name, manifest.FieldManager, true, a.object, nil)
		if err != nil {
			return kubeapi.Explain("furnish the workspace's namespace", err)
		}
	}
	return s.copySecrets(ctx, name, workspace)
}

func (o *Options) quota() corev1.ResourceList {
	hard := corev1.ResourceList{}
	if o.QuotaPods > 0 {
		hard[corev1.ResourcePods] = *resource.NewQuantity(o.QuotaPods, resource.DecimalSI)
	}
	if o.QuotaClaims > 0 {
		hard[corev1.ResourcePersistentVolumeClaims] = *resource.NewQuantity(o.QuotaClaims, resource.DecimalSI)
	}
	if o.QuotaCPU != "" {
		hard[corev1.ResourceRequestsCPU] = resource.MustParse(o.QuotaCPU)
	}
	if o.QuotaMemory != "" {
		hard[corev1.ResourceRequestsMemory] = resource.MustParse(o.QuotaMemory)
	}
	return hard
}

// copySecrets brings what sandboxes need from the driver's namespace: of the gateway's certificate the authority
// alone, of others what they hold.
func (s *spaces) copySecrets(ctx context.Context, name, workspace string) error {
	o := &s.d.opts
	wanted := make(map[string][]string)
	if o.CASecret != "" {
		wanted[o.CASecret] = []string{"ca.crt"}
	}
	if o.ClientSecret != "" {
		wanted[o.ClientSecret] = append(wanted[o.ClientSecret], "tls.crt", "tls.key")
	}
	for _, p := range o.PullSecrets {
		wanted[p] = append(wanted[p], corev1.DockerConfigJsonKey, corev1.DockerConfigKey)
	}
	resource := kubeapi.Resource{GroupVersion: "v1", Plural: "secrets"}
	for secret, keys := range wanted {
		var source struct {
			Type string            `json:"type"`
			Data map[string][]byte `json:"data"`
		}
		err := s.d.api.Get(ctx, resource, o.Namespace, secret, &source)
		if kubeapi.IsNotFound(err) {
			return fault.New(fault.FailedPrecondition, "SECRET_MISSING", "secret %q, which sandboxes need, is not in namespace %q", secret, o.Namespace).
				WithNext("create it, or start the driver with another name")
		}
		if err != nil {
			return kubeapi.Explain("read secret "+secret, err)
		}
		data := maps.Clone(source.Data)
		maps.DeleteFunc(data, func(k string, _ []byte) bool {
			for _, key := range keys {
				if k == key {
					return false
				}
			}
			return true
		})
		kind := string(corev1.SecretTypeOpaque)
		if data[corev1.DockerConfigJsonKey] != nil || data[corev1.DockerConfigKey] != nil {
			kind = source.Type
		}
		copied := &object{
			APIVersion: "v1", Kind: "Secret", Type: kind, Data: data,
			Metadata: manifest.Metadata{Name: secret, Namespace: name, Labels: o.spaceLabels(workspace)},
		}
		if _, err := s.d.api.Apply(ctx, resource, name, secret, manifest.FieldManager, true, copied, nil); err != nil {
			return kubeapi.Explain("copy secret "+secret, err)
		}
	}
	return nil
}
