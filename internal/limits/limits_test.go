package limits_test

import (
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
)

func x(n int) string { return strings.Repeat("x", n) }

func entries(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m["k"+strings.Repeat("a", i)] = "v"
	}
	return m
}

// TestLimits goes to each limit and one past it.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		want string // Substring of the message; empty for no error.
	}{
		{"length at", limits.Length("f", x(10), 10), ""},
		{"length past", limits.Length("f", x(11), 10), "f exceeds maximum length (11 > 10)"},
		{"entries at", limits.Entries("f", 32, 32), ""},
		{
			"entries past", limits.Entries("provider.credentials", 33, 32),
			"provider.credentials exceeds maximum entries (33 > 32)",
		},
		{"size past", limits.Size("f", 11, 10), "serialized size exceeds maximum"},
		{"required", limits.Required("name", ""), "name is required"},
		{"name at", limits.Name("name", x(253)), ""},
		{"name past", limits.Name("name", x(254)), "name exceeds maximum length (254 > 253)"},
		{"name unicode", limits.Name("name", "Büro 7"), ""},
		{"name newline", limits.Name("name", "a\nb"), "printable"},
		{"name escape", limits.Name("name", "a\x1b[2J"), "printable"},
		{"name not utf-8", limits.Name("name", "a\xff"), "printable"},
		{"name edge space", limits.Name("name", " a"), "space"},
		{"label name at", limits.DNSLabel("name", x(19), 19), ""},
		{"label name past", limits.DNSLabel("name", x(20), 19), "name exceeds maximum length (20 > 19)"},
		{"label upper", limits.DNSLabel("name", "A", 19), "must contain only lowercase alphanumeric characters or hyphens"},
		{"label edge", limits.DNSLabel("name", "a-", 19), "must not start or end with a hyphen"},
		{"label double", limits.DNSLabel("name", "a--b", 19), "must not contain consecutive hyphens"},
		{"label ok", limits.DNSLabel("name", "calm-otter-1", 19), ""},
		{"map at", limits.StringMap("f", map[string]string{x(256): x(8192)}, 1, 256, 8192), ""},
		{
			"map key", limits.StringMap("f", map[string]string{x(257): ""}, 1, 256, 8192),
			"f key exceeds maximum length (257 > 256)",
		},
		{
			"map value", limits.StringMap("f", map[string]string{"a": x(8193)}, 1, 256, 8192),
			"f value exceeds maximum length (8193 > 8192)",
		},
		{"map entries", limits.StringMap("f", entries(3), 2, 256, 8192), "f exceeds maximum entries (3 > 2)"},
		{"labels none", limits.Labels("labels", nil), ""},
		{"labels prefix", limits.Labels("labels", map[string]string{"a.b-c.d/Na_m.e": "V.1"}), ""},
		{"labels at", limits.Labels("labels", map[string]string{x(63): x(63)}), ""},
		{"labels name past", limits.Labels("labels", map[string]string{x(64): ""}), "(64 > 63)"},
		{"labels value past", limits.Labels("labels", map[string]string{"a": x(64)}), "(64 > 63)"},
		{"labels key past", limits.LabelKey("labels", strings.Repeat("abc.", 60)+"abcd/"+x(9)), "(254 > 253)"},
		{"labels empty name", limits.LabelKey("labels", "a/"), "empty name"},
		{"labels empty prefix", limits.LabelKey("labels", "/a"), "prefix"},
		{"labels prefix dots", limits.LabelKey("labels", "a..b/c"), "prefix"},
		{"labels prefix upper", limits.LabelKey("labels", "A/c"), "prefix"},
		{"labels two slashes", limits.LabelKey("labels", "a/b/c"), "letter"},
		{"labels edge", limits.LabelKey("labels", "-a"), "both ends"},
		{"labels unicode", limits.LabelValue("labels", "é"), "both ends"},
		{"env ok", limits.EnvName("env", "_A9"), ""},
		{"env digit", limits.EnvName("env", "1ABC"), "not a valid environment variable name"},
		{"env dash", limits.EnvName("env", "A-B"), "not a valid environment variable name"},
		{"env empty", limits.EnvName("env", ""), "not a valid environment variable name"},
		{"env long", limits.EnvName("env", x(257)), "(257 > 256)"},
		{"environment newline", limits.Environment("env", map[string]string{"A": "x\ny"}), "one line"},
		{"environment nul", limits.Environment("env", map[string]string{"A": "x\x00"}), "one line"},
		{"environment entries", limits.Environment("env", entries(129)), "(129 > 128)"},
	} {
		switch {
		case tc.want == "" && tc.err != nil:
			t.Errorf("%s: %v", tc.name, tc.err)
		case tc.want != "" && (tc.err == nil || !strings.Contains(tc.err.Error(), tc.want)):
			t.Errorf("%s: got %v, want %q", tc.name, tc.err, tc.want)
		case tc.want != "":
			if f := fault.From(tc.err); f.Kind != fault.InvalidArgument || f.Reason == "" || f.Next == "" {
				t.Errorf("%s: incomplete fault %+v", tc.name, f)
			}
		}
	}
}

func TestEnvironmentTotal(t *testing.T) {
	t.Parallel()
	env := map[string]string{}
	for i := range 32 {
		env["A"+strings.Repeat("a", i)] = x(8192 - i - 1)
	}
	if err := limits.Environment("env", env); err != nil {
		t.Fatalf("256 KiB: %v", err)
	}
	env["A"] += "x"
	if err := limits.Environment("env", env); err == nil {
		t.Fatal("one byte past 256 KiB passes")
	}
}
