package callinfo_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/callinfo"
)

func TestRequestID(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("a", 128)
	for _, kept := range []string{"my-id", "~!", longest} {
		if got := callinfo.RequestID([]string{kept}); got != kept {
			t.Errorf("%q became %q", kept, got)
		}
	}
	seen := map[string]bool{}
	for _, values := range [][]string{nil, {""}, {"a", "b"}, {longest + "a"}, {"a b"}, {"a\n"}, {"é"}} {
		got := callinfo.RequestID(values)
		if id, err := uuid.Parse(got); err != nil || id.Version() != 4 || seen[got] {
			t.Errorf("%q became %q: %v", values, got, err)
		}
		seen[got] = true
	}
}

func TestWhereFrom(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{"192.0.2.1:5": "192.0.2.1", "[2001:db8::1]:5": "2001:db8::1", "@": "other", "": "other"} {
		addr := callinfo.Remote(&http.Request{RemoteAddr: remote})
		if _, tcp := addr.(*net.TCPAddr); tcp != (want != "other") || callinfo.Host(addr) != want || addr.String() != remote {
			t.Errorf("%q: %T %s, host %q, want %q", remote, addr, addr, callinfo.Host(addr), want)
		}
	}
	if got := callinfo.Host(nil); got != "" {
		t.Errorf("nobody's host is %q", got)
	}
}
