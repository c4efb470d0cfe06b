package config

// podKeys are the keys of the reference's table [openshell.drivers.kubernetes] that tell which pods are sandboxes, with
// the settings that they stand for.
var podKeys = map[string]string{"namespace": "kubernetes-namespaces", "service_account_name": "kubernetes-service-account"}

// referencePods switches the identity of pods on where the newer reference generation does: in a cluster, with a key of
// sandbox tokens and a table of its Kubernetes driver, which may be there although the driver is an external one.
func (v *values) referencePods() {
	if host, ok := v.env("KUBERNETES_SERVICE_HOST"); !ok || host == "" || v.set("kubernetes-enabled") || v.text("gateway-jwt-signing-key") == "" {
		return
	}
	table := v.fileTable("drivers", "kubernetes")
	if table == nil {
		return
	}
	const why = "[openshell.drivers.kubernetes]"
	v.derive("kubernetes-enabled", "true", why)
	shared := v.fileTable("gateway")
	for key, name := range podKeys {
		value, _ := table[key].(string)
		if value == "" {
			value, _ = shared[key].(string)
		}
		if value != "" {
			v.derive(name, value, why+"."+key)
		}
	}
	if len(v.list("kubernetes-namespaces")) == 0 && v.text("kubernetes-namespace-prefix") == "" {
		namespace := v.text("sandbox-namespace")
		if namespace == "" {
			namespace = "openshell"
		}
		v.derive("kubernetes-namespaces", namespace, why)
	}
}

// fileTable returns a table of the file below "openshell"; nil if there is none.
func (v *values) fileTable(path ...string) map[string]any {
	if v.tree == nil {
		return nil
	}
	table, _ := v.tree.root["openshell"].(map[string]any)
	for _, key := range path {
		table, _ = table[key].(map[string]any)
	}
	return table
}
