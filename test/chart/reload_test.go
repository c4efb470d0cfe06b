package chart_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// sumAnnotation is over the settings that the gateway reads at its start alone.
const sumAnnotation = "sallyport.dev/config-sum"

// noValue are settings that no value is for, with the reason. gateway.config has them all.
var noValue = map[string]string{
	"gateway.auth.allow_shared_sandbox_secret":           "for older supervisors, which no chart's driver makes",
	"gateway.client_tls_secret_name":                     "a setting of the driver",
	"gateway.credential_drivers":                         "has no effect",
	"gateway.credential_storage.accept_lost":             "for the day on which a key was lost",
	"gateway.credential_storage.key_encryption_key_env":  "the variable has its usual name",
	"gateway.credential_storage.key_encryption_key_path": "the key is in a variable",
	"gateway.default_credential_driver":                  "has no effect",
	"gateway.default_image":                              "a setting of the driver",
	"gateway.enable_loopback_service_http":               "nobody is on a pod's loopback address",
	"gateway.enable_user_namespaces":                     "a setting of the driver",
	"gateway.gateway_jwt.key_dir":                        "beside the database",
	"gateway.guest_tls_ca":                               "has no effect",
	"gateway.guest_tls_cert":                             "has no effect",
	"gateway.guest_tls_key":                              "has no effect",
	"gateway.host_gateway_ip":                            "a setting of the driver",
	"gateway.interceptors":                               "has no effect",
	"gateway.kubernetes.api_url":                         "the cluster's own",
	"gateway.kubernetes.audience":                        "the driver's is the same",
	"gateway.kubernetes.ca_path":                         "the pod's own",
	"gateway.kubernetes.token_path":                      "the pod's own",
	"gateway.mtls_auth.default_roles":                    "refused with the driver kubernetes",
	"gateway.mtls_auth.enabled":                          "refused with the driver kubernetes",
	"gateway.policy_validation_failure_mode":             "has no effect",
	"gateway.provider_profile_sources":                   "has no effect",
	"gateway.public_addresses":                           "the driver asks for no addresses",
	"gateway.sa_token_ttl_secs":                          "a setting of the driver",
	"gateway.sandbox_namespace":                          "a setting of the driver",
	"gateway.service_account_name":                       "a setting of the driver",
	"gateway.supervisor_image":                           "a setting of the driver",
	"credential_drivers":                                 "has no effect",
	"supervisor":                                         "has no effect",
}

// settingsSeen collects which settings of the gateway the values reach.
type settingsSeen struct {
	// live are keys that take effect without a restart.
	live map[string]bool

	mu   sync.Mutex
	keys map[string]bool
	// compared counts pairs of renders.
	compared int
}

// liveRow is a row of docs/configuration.md whose setting takes effect at once.
var liveRow = regexp.MustCompile("^\\|[^|]*\\|[^|]*\\| `(gateway\\.[a-z_.]+)` \\|.*↻")

func newSettingsSeen(t *testing.T) *settingsSeen {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(top, "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := &settingsSeen{live: map[string]bool{}, keys: map[string]bool{}}
	for line := range strings.Lines(string(raw)) {
		if row := liveRow.FindStringSubmatch(line); row != nil {
			s.live[row[1]] = true
		}
	}
	if len(s.live) < 20 {
		t.Fatalf("docs/configuration.md marks %d settings: the form of its tables has changed", len(s.live))
	}
	return s
}

// takesEffect tells whether a setting takes effect at once. Issuers do as a whole.
func (s *settingsSeen) takesEffect(key string) bool {
	return s.live[key] || strings.HasPrefix(key, "gateway.oidc.")
}

// compare checks that the pod restarts if, and only if, a setting changed that needs it.
func (s *settingsSeen) compare(t *testing.T, before, after []node) {
	t.Helper()
	was, is := flatSettings(t, before), flatSettings(t, after)
	s.mu.Lock()
	s.compared++
	for key := range is {
		s.keys[key] = true
	}
	s.mu.Unlock()
	var restart []string
	for key := range mergedKeys(was, is) {
		if was[key] != is[key] && !s.takesEffect(key) {
			restart = append(restart, key)
		}
	}
	if changed := sumOf(before) != sumOf(after); changed != (len(restart) > 0) {
		t.Errorf("the annotation changed: %v; settings that need a restart and changed: %v", changed, restart)
	}
}

func mergedKeys(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func sumOf(objects []node) string {
	return text(kinds(objects, "StatefulSet")[0], "spec", "template", "metadata", "annotations", sumAnnotation)
}

// flatSettings are the settings of a render, each by its path.
func flatSettings(t *testing.T, objects []node) map[string]string {
	t.Helper()
	name := text(kinds(objects, "StatefulSet")[0], "metadata", "name")
	var file node
	if err := toml.Unmarshal([]byte(text(object(objects, "ConfigMap", name+"-config"), "data", "gateway.toml")), &file); err != nil {
		t.Fatal(err)
	}
	flat := map[string]string{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		if table, ok := value.(node); ok && path != "gateway.oidc.role_map" {
			for key, inner := range table {
				walk(strings.TrimPrefix(path+"."+key, "."), inner)
			}
			return
		}
		flat[path] = string(encodeValue(t, value))
	}
	walk("", file["openshell"])
	return flat
}

// complete compares what was seen with all settings that there are.
func (s *settingsSeen) complete(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(top, "docs", "gateway.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc schema
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	all := doc.Properties["openshell"]
	all.root = all
	var known []string
	all.each("", func(path string, _ *schema) { known = append(known, path) }, nil)
	for _, path := range known {
		if !s.keys[path] && noValue[path] == "" && !strings.HasPrefix(path, "drivers") {
			t.Errorf("no value sets %s of gateway.toml: add one, or say in noValue why not", path)
		}
		if s.keys[path] && noValue[path] != "" {
			t.Errorf("%s is set by a value, and noValue says that none is for it", path)
		}
	}
	for path := range noValue {
		if !slices.Contains(known, path) {
			t.Errorf("noValue has %s, which is no setting", path)
		}
	}
}
