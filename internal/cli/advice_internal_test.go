package cli

import (
	"strings"
	"testing"
)

func TestNextStep(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reason, message, want string }{
		{"ImagePullBackOff", "agent: no such image; next: check the image's name", "check the image's name"},
		{"ImagePullBackOff", "agent: no such image", "check that the image exists"},
		{"ErrImagePull", "", "check that the image exists"},
		{"Unschedulable", "0/1 nodes", "no machine has room"},
		{"FailedScheduling", "", "no machine has room"},
		{"QuotaExceeded", "", "quota is used up"},
		{"FailedMount", "", "a volume or secret is missing"},
		{"Evicted", "", "`sallyport sandbox stop box` and `sallyport sandbox start box`"},
		{"BackendResourceMissing", "", "`sallyport sandbox delete box`"},
		{"SandboxSuspended", "", "`sallyport sandbox start box`"},
		{"SupervisorExited", "", "`sallyport logs box`"},
		{"Unheard", "of", ""},
		{"", "", ""},
	} {
		got := nextStep(tc.reason, tc.message, "box")
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) || strings.Contains(got, "%!") {
			t.Errorf("%s, %q: %q, want %q", tc.reason, tc.message, got, tc.want)
		}
	}
	for _, a := range advices {
		if got := advice(a.part, "box"); strings.Contains(got, "%") {
			t.Errorf("%s: %q", a.part, got)
		}
	}
}
