package output_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"sallyport.dev/sallyport/internal/cli/output"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := output.Printer{Out: &b, Color: true}
	p.Table([]string{"NAME", "PHASE"}, [][]string{{"a", "Ready"}, {"日本", "x\x1b[2J"}, {"longer\nname", ""}})
	want := "NAME         PHASE\na            Ready\n日本         x\uFFFD[2J\nlonger name  \n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	p.Table([]string{"NAME"}, nil)
	if b.Len() != 0 {
		t.Errorf("an empty table prints %q", b.String())
	}
}

func TestPairs(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	output.Printer{Out: &b}.Pairs([]output.Pair{{"Name", "x"}, {"Empty", ""}, {"Reason", "a\nPhase: Ready"}})
	if got, want := b.String(), "Name: x\nReason: a Phase: Ready\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

type sample struct {
	Zero  string            `json:"zero"`
	Alpha string            `json:"alpha"`
	List  []string          `json:"list"`
	Empty []string          `json:"empty"`
	Map   map[string]string `json:"map"`
	Num   int64             `json:"num"`
}

func TestValueKeepsOrderAndTypes(t *testing.T) {
	t.Parallel()
	v := sample{"yes", "1.5", []string{"a", "null", "x: y"}, []string{}, map[string]string{"k": "0x1F"}, 1 << 53}
	var b bytes.Buffer
	if err := (output.Printer{Out: &b, Format: output.YAML}).Value(v); err != nil {
		t.Fatal(err)
	}
	want := "zero: \"yes\"\nalpha: \"1.5\"\nlist:\n  - a\n  - \"null\"\n  - \"x: y\"\nempty: []\nmap:\n  k: \"0x1F\"\nnum: 9007199254740992\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := (output.Printer{Out: &b, Format: output.JSON}).Value(v); err != nil {
		t.Fatal(err)
	}
	var back sample
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, back); diff != "" {
		t.Error(diff)
	}
}

func TestParseFormat(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{"table": true, "json": true, "yaml": true, "": false, "JSON": false, "csv": false} {
		if _, err := output.ParseFormat(s); (err == nil) != ok {
			t.Errorf("ParseFormat(%q): %v", s, err)
		}
	}
}

func TestProgressInPlainLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := output.NewProgress(&b, true, false)
		p.Active("Requesting sandbox")
		p.Active("Requesting sandbox")
		time.Sleep(1200 * time.Millisecond)
		p.Done("Sandbox\x1b allocated")
		p.Stop()
		p.Stop()
		want := "[0.0s] Requesting sandbox\n[1.2s] Sandbox\uFFFD allocated\n"
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Error(diff)
		}
	})
	var b bytes.Buffer
	p := output.NewProgress(&b, true, true)
	p.Active("x")
	p.Done("x")
	p.Stop()
	if b.Len() != 0 {
		t.Errorf("a quiet display shows %q", b.String())
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b[31m", "\xff", "\u202eabc", "a\u0085b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := output.Clean(s)
		if !utf8.ValidString(got) {
			t.Errorf("Clean(%q) is not UTF-8", s)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
				t.Errorf("Clean(%q) leaves %U", s, r)
			}
		}
	})
}

// FuzzYAML checks that every string survives the way through YAML as a string.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"", "null", "~", "1e3", "- a", "a: b", "#x", "'", "\"", "2026-01-01", "a\nb", " a ", "|", "!!x", "&a", "*a"} {
		f.Add(s)
	}
	control := regexp.MustCompile(`[^\t\n\r\x20-\x7E\x{A0}-\x{D7FF}]`)
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) || control.MatchString(s) {
			t.Skip("JSON or YAML escapes it in other ways")
		}
		var b bytes.Buffer
		if err := (output.Printer{Out: &b, Format: output.YAML}).Value(map[string]string{"k": s}); err != nil {
			t.Fatal(err)
		}
		var back map[string]any
		if err := yaml.Unmarshal(b.Bytes(), &back); err != nil || back["k"] != s {
			t.Errorf("%q became %q: %v", s, back["k"], err)
		}
	})
}
