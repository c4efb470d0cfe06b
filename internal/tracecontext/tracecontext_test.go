package tracecontext_test

import (
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/tracecontext"
)

const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParse(t *testing.T) {
	t.Parallel()
	for header, sampled := range map[string]bool{
		good:                                        true,
		strings.TrimSuffix(good, "1") + "0":         false,
		strings.TrimSuffix(good, "01") + "03":       true,
		"cc" + good[2:] + "-what-the-future-brings": true,
		"cc" + good[2:]:                             true,
	} {
		c, ok := tracecontext.Parse(header)
		if !ok || c.Sampled != sampled || c.Trace() != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s: %+v %v", header, c, ok)
		}
		if again, ok := tracecontext.Parse(c.String()); !ok || again != c {
			t.Errorf("%s: written as %s", header, c)
		}
	}
	for _, header := range []string{
		"", good[1:], good + "x", good + "-x", "ff" + good[2:], strings.ToUpper(good), "cc" + good[2:] + "x",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c8031xx-b7ad6b7169203331-01",
	} {
		if c, ok := tracecontext.Parse(header); ok {
			t.Errorf("%q is %+v", header, c)
		}
	}
	if _, ok := tracecontext.From(t.Context()); ok {
		t.Error("a context without a trace has one")
	}
	c, _ := tracecontext.Parse(good)
	if got, ok := tracecontext.From(tracecontext.With(t.Context(), c)); !ok || got != c {
		t.Errorf("got %+v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add("cc" + good[2:] + "-x")
	f.Add("ff" + good[2:])
	f.Fuzz(func(t *testing.T, header string) {
		c, ok := tracecontext.Parse(header)
		if ok != c.Valid() {
			t.Fatalf("%q: %+v %v", header, c, ok)
		}
		if again, ok2 := tracecontext.Parse(c.String()); ok && (!ok2 || again != c) {
			t.Fatalf("%q: written as %s", header, c)
		}
	})
}
