// Package docs_test keeps the documents about authentication and the threat model true: every block of settings is read,
// every claim about a provider's tokens is put to a gateway made of the block above it, and every flag, command, reason,
// file and test that they name must exist. It knows the products' public surface and no package's inside.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// top is the repository.
var top = filepath.Join("..", "..")

// section is what stands below one heading, up to the next of any level.
type section struct {
	title  string
	text   string
	blocks []block
}

// block is a fenced block of a section.
type block struct {
	language, text string
}

var heading = regexp.MustCompile(`^#+ (.+)$`)

// page reads a document of docs.
func page(t *testing.T, name string) []*section {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(top, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	var sections []*section
	current := &section{}
	var fenced *block
	for line := range strings.Lines(string(raw)) {
		plain := strings.TrimRight(line, "\n")
		switch {
		case fenced != nil && plain == "```":
			current.blocks = append(current.blocks, *fenced)
			fenced = nil
		case fenced != nil:
			fenced.text += line
		case strings.HasPrefix(plain, "```"):
			fenced = &block{language: strings.TrimPrefix(plain, "```")}
		case heading.MatchString(plain):
			current = &section{title: heading.FindStringSubmatch(plain)[1]}
			sections = append(sections, current)
		default:
			current.text += line
		}
	}
	if fenced != nil {
		t.Fatalf("%s: a block is not closed", name)
	}
	return sections
}

// named returns the section with a title.
func named(t *testing.T, sections []*section, title string) *section {
	t.Helper()
	for _, s := range sections {
		if s.title == title {
			return s
		}
	}
	t.Fatalf("there is no section %q", title)
	return nil
}

// of returns the texts of a section's blocks in a language.
func (s *section) of(language string) []string {
	var texts []string
	for _, b := range s.blocks {
		if b.language == language {
			texts = append(texts, b.text)
		}
	}
	return texts
}

// table returns the cells of the rows below the header that begins with these cells.
func (s *section) table(header ...string) [][]string {
	var rows [][]string
	inside := false
	for line := range strings.Lines(s.text) {
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case inside && !strings.HasPrefix(line, "|-"):
			rows = append(rows, cells)
		case len(cells) >= len(header) && strings.Join(cells[:len(header)], "|") == strings.Join(header, "|"):
			inside = true
		}
	}
	return rows
}

var code = regexp.MustCompile("`([^`]+)`")

// words returns what stands between backticks.
func words(text string) []string {
	var found []string
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}
