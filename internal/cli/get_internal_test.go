package cli

import (
	"fmt"
	"strings"
	"testing"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// TestWarningsStayShown has a sandbox start anew, with more events than are shown, after something went wrong.
func TestWarningsStayShown(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ happened, want string }{
		{"", ""},
		{"n1 w2 n3", "n1 w2 n3"},
		{"n1 w2 n3 n4 n5 n6 n7 n8 n9 n10 n11 n12 n13", "w2 n4 n5 n6 n7 n8 n9 n10 n11 n12 n13"},
		{"w1 w2 w3 w4 w5 w6 w7 n8 n9 n10 n11 n12 n13 n14 n15 n16 w17", "w3 w4 w5 w6 w7 n8 n9 n10 n11 n12 n13 n14 n15 n16 w17"},
	} {
		var events []*openshellpb.PlatformEvent
		for _, word := range strings.Fields(tc.happened) {
			kind := map[byte]string{'n': "Normal", 'w': "Warning"}[word[0]]
			events = append(events, &openshellpb.PlatformEvent{Type: kind, Reason: word})
		}
		var got []string
		for _, e := range telling(events) {
			got = append(got, e.GetReason())
		}
		if fmt.Sprint(got) != "["+tc.want+"]" {
			t.Errorf("of %q are shown %v, want %s", tc.happened, got, tc.want)
		}
	}
}
