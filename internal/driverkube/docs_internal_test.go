package driverkube

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

var update = flag.Bool("update", false, "write the tables of docs/drivers-kubernetes.md anew")

var page = filepath.Join("..", "..", "docs", "drivers-kubernetes.md")

// between returns what stands between two marks of a page, with the text before and after it.
func between(t *testing.T, text, begin, end string) (head, part, tail string) {
	t.Helper()
	head, rest, ok := strings.Cut(text, begin)
	part, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %s ... %s", page, begin, end)
	}
	return head + begin, part, end + tail
}

func compare(t *testing.T, begin, end, want string) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, part, tail := between(t, string(raw), begin, end)
	if part == "\n"+want {
		return
	}
	if !*update {
		t.Fatalf("%s does not say what the code does; run the tests of this package with -update. Want:\n%s", page, want)
	}
	if err := os.WriteFile(page, []byte(head+"\n"+want+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFlagsAreDocumented(t *testing.T) {
	var table strings.Builder
	table.WriteString("| Flag | Default | Meaning |\n|---|---|---|\n")
	set := pflag.NewFlagSet("driver", pflag.ContinueOnError)
	set.SortFlags = false
	var opts Options
	opts.register(set, &flags{})
	set.VisitAll(func(f *pflag.Flag) {
		value := strings.Trim(f.DefValue, "[]")
		switch {
		case strings.Contains(f.Usage, "(required)"):
			value = "required"
		case f.Name == "namespace":
			value = "the pod's"
		case value == "" || value == "false" && f.Value.Type() == "bool":
			value = "none"
			if f.Value.Type() == "bool" {
				value = "off"
			}
		case value == "true":
			value = "on"
		default:
			value = "`" + value + "`"
		}
		fmt.Fprintf(&table, "| `--%s` | %s | %s |\n", f.Name, value, strings.ReplaceAll(strings.TrimSuffix(f.Usage, " (required)"), "|", "\\|"))
	})
	compare(t, "<!-- flags -->", "<!-- end of flags -->", table.String())
}

func TestReasonsAreDocumented(t *testing.T) {
	var table strings.Builder
	seen := make(map[string]bool)
	for _, r := range verdict.All() {
		if seen[r.Word] || r.Word == "" || r.Next == "" {
			t.Errorf("reason %q stands twice, or says nothing", r.Word)
		}
		seen[r.Word] = true
		passing := ""
		if r.Passing {
			passing = "yes"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", r.Word, passing, r.Next)
	}
	compare(t, "<!-- reasons -->", "<!-- end of reasons -->", "| Reason | Passing | Next step |\n|---|---|---|\n"+table.String())
}
