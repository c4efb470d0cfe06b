package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sallyport.dev/sallyport/internal/cli"
	"sallyport.dev/sallyport/internal/dev"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// pages are the documents that these tests look after.
var pages = []string{"auth.md", "threat-model.md"}

var flagWord = regexp.MustCompile(`--([a-z][a-z0-9-]*)`)

func commandTree() *cobra.Command {
	stdio := cli.Stdio{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
	return cli.Root(cli.Options{Stdio: stdio, Env: func(string) (string, bool) { return "", false }})
}

// flagsOf are the names of all flags of a tree of commands.
func flagsOf(c *cobra.Command) map[string]bool {
	names := map[string]bool{"help": true}
	for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) { names[f.Name] = true })
	}
	for _, sub := range c.Commands() {
		maps.Copy(names, flagsOf(sub))
	}
	return names
}

// gatewayFlags are those of the gateway's help.
func gatewayFlags() map[string]bool {
	names := map[string]bool{}
	for _, m := range flagWord.FindAllStringSubmatch(config.Usage(), -1) {
		names[m[1]] = true
	}
	return names
}

// A flag between backticks in the text is one of the gateway's or of the client's.
func TestFlagsExist(t *testing.T) {
	t.Parallel()
	known := flagsOf(commandTree())
	maps.Copy(known, gatewayFlags())
	known["isolation"], known["hide"], known["allow-uid"] = true, true, true // The process driver's; its page has them.
	for _, name := range pages {
		for _, s := range page(t, name) {
			for _, w := range words(s.text) {
				if strings.HasPrefix(w, "kubectl ") {
					continue
				}
				for _, m := range flagWord.FindAllStringSubmatch(w, -1) {
					if !known[m[1]] {
						t.Errorf("%s, %s: there is no flag --%s", name, s.title, m[1])
					}
				}
			}
		}
	}
}

// commands are the command lines of a section that are ours, in blocks and between backticks.
func (s *section) commands() [][]string {
	var lines []string
	for _, text := range s.of("sh") {
		lines = append(lines, strings.Split(strings.ReplaceAll(text, "\\\n", " "), "\n")...)
	}
	var found [][]string
	for _, line := range append(lines, words(s.text)...) {
		if fields := shellWords(line); len(fields) > 1 && (fields[0] == "sallyport" || fields[0] == "sallyport-gateway") {
			found = append(found, fields)
		}
	}
	return found
}

var shellWord = regexp.MustCompile(`"[^"]*"|'[^']*'|[^\s"']+`)

func shellWords(line string) []string {
	fields := shellWord.FindAllString(line, -1)
	for i := range fields {
		fields[i] = strings.Trim(fields[i], `"'`)
	}
	return fields
}

// A command line is one that the program takes: its commands exist, and each has the flags that it is given.
func TestCommandsExist(t *testing.T) {
	t.Parallel()
	n := 0
	for _, name := range pages {
		for _, s := range page(t, name) {
			for _, line := range s.commands() {
				n++
				if line[0] == "sallyport-gateway" {
					checkGatewayLine(t, s, line[1:])
					continue
				}
				root := commandTree()
				if line[1] == "dev" {
					root.AddCommand(dev.Command())
				}
				found, args, err := root.Find(line[1:])
				if err == nil && found == root {
					t.Errorf("%s, %s: there is no such command: %q", name, s.title, line)
					continue
				}
				if err == nil {
					err = found.ParseFlags(args)
				}
				if err == nil {
					if rest := found.Flags().Args(); found.HasSubCommands() && len(rest) > 0 {
						t.Errorf("%s, %s: there is no such command: %q", name, s.title, line)
					}
				}
				if err == nil && found.Flags().Changed("oidc-client-id") && !found.Flags().Changed("oidc-issuer") {
					t.Errorf("%s, %s: %q: a client needs an issuer", name, s.title, line)
				}
				if err != nil {
					t.Errorf("%s, %s: %q: %v", name, s.title, line, err)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d command lines were found", n)
	}
}

// checkGatewayLine knows the gateway's commands by its usage, as the program cannot be imported.
func checkGatewayLine(t *testing.T, s *section, args []string) {
	t.Helper()
	sources, err := filepath.Glob(filepath.Join(top, "cmd", "sallyport-gateway", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var usage strings.Builder
	for _, source := range sources {
		raw, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		usage.Write(raw)
	}
	path, flags := args, gatewayFlags()
	if i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") }); i >= 0 {
		path = args[:i]
	}
	if !strings.Contains(usage.String(), "sallyport-gateway "+strings.Join(path, " ")+" ") {
		t.Errorf("%s: the gateway has no command %q", s.title, path)
	}
	for _, a := range args[len(path):] {
		if m := flagWord.FindStringSubmatch(a); m != nil && !flags[m[1]] {
			t.Errorf("%s: the gateway has no flag --%s", s.title, m[1])
		}
	}
}

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	source = regexp.MustCompile(`^(?:cmd|docs|internal|test|proto|driverkit)/[\w./-]+$`)
	anchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchorOf is how a heading is linked to.
func anchorOf(title string) string {
	return strings.ReplaceAll(anchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

// Files and headings that are named or linked to are there.
func TestFilesAndLinksExist(t *testing.T) {
	t.Parallel()
	for _, name := range pages {
		for _, s := range page(t, name) {
			for _, w := range words(s.text) {
				w, _, _ = strings.Cut(w, ":")
				if source.MatchString(w) {
					if _, err := os.Stat(filepath.Join(top, filepath.FromSlash(w))); err != nil {
						t.Errorf("%s, %s: %v", name, s.title, err)
					}
				}
			}
			for _, m := range link.FindAllStringSubmatch(s.text, -1) {
				file, fragment, _ := strings.Cut(m[1], "#")
				if file == "" {
					file = name
				}
				titles := []string{}
				for _, other := range page(t, file) {
					titles = append(titles, anchorOf(other.title))
				}
				if fragment != "" && !slices.Contains(titles, fragment) {
					t.Errorf("%s, %s: %s has no heading for #%s", name, s.title, file, fragment)
				}
			}
		}
	}
}

// reasons are the constants of a package that are reasons of refusals.
func reasons(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(top, filepath.FromSlash(dir), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	var found []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != len(spec.Names) {
				return true
			}
			for i, name := range spec.Names {
				if literal, ok := spec.Values[i].(*ast.BasicLit); ok && literal.Kind == token.STRING && strings.HasPrefix(name.Name, "Reason") {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						found = append(found, text)
					}
				}
			}
			return true
		})
	}
	return found
}

// Every reason for which somebody may not get in, or may not do something, has a row, and every row a reason.
func TestEveryReasonIsExplained(t *testing.T) {
	t.Parallel()
	var documented []string
	for _, row := range named(t, page(t, "auth.md"), "Troubleshooting by reason").table("Reason", "Means", "Do") {
		if len(row) != 3 || row[1] == "" {
			t.Errorf("row %q", row)
		}
		documented = append(documented, words(row[0])...)
	}
	must := []string{"CREDENTIAL_EXPIRED", "CREDENTIAL_REVOKED"}
	for _, dir := range []string{
		"internal/authn", "internal/authn/oidc", "internal/authn/serviceaccount", "internal/authz", "internal/ratelimit", "internal/access",
	} {
		found := reasons(t, dir)
		if len(found) == 0 {
			t.Errorf("no reasons in %s", dir)
		}
		must = append(must, found...)
	}
	for _, r := range reasons(t, "internal/authn/sandboxtoken") {
		if !strings.HasPrefix(r, "SANDBOX_KEY_") { // Of those who look after keys, not of callers.
			must = append(must, r)
		}
	}
	slices.Sort(must)
	must = slices.Compact(must)
	for _, r := range must {
		if !slices.Contains(documented, r) {
			t.Errorf("%s has no row", r)
		}
	}
	for i, r := range documented {
		if !slices.Contains(must, r) {
			t.Errorf("row %s: there is no such reason", r)
		}
		if slices.Contains(documented[:i], r) {
			t.Errorf("row %s is there twice", r)
		}
	}
}
