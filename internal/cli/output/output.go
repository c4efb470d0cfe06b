// Package output owns how results look: aligned tables and key-value views for people, JSON and YAML for
// programs, notes and progress for whoever watches. Data goes to one writer and everything else to another, so
// that what a program reads is never mixed with words. It knows no gateway and no message of the wire.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// Format is how data is written.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// ParseFormat reads the value of -o.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Table, JSON, YAML:
		return f, nil
	default:
		return "", fmt.Errorf("invalid output format %q: use table, json or yaml", s)
	}
}

// Terminal returns the descriptor of a reader or writer that is a terminal.
func Terminal(stream any) (fd int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// Printer writes data to Out and notes to Err.
type Printer struct {
	Out, Err io.Writer
	Format   Format
	// Color allows escape sequences on each writer if it is a terminal as well.
	Color bool
}

// Structured tells whether a program reads the data.
func (p Printer) Structured() bool { return p.Format != Table }

// Note writes one line for the person watching.
func (p Printer) Note(format string, args ...any) {
	fmt.Fprintln(p.Err, Clean(fmt.Sprintf(format, args...)))
}

// Line writes one line of data for a person; programs get the value instead, see Value.
func (p Printer) Line(format string, args ...any) {
	fmt.Fprintln(p.Out, Clean(fmt.Sprintf(format, args...)))
}

// Value writes v as JSON or YAML. The keys and their order are those of v's JSON.
func (p Printer) Value(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if p.Format == YAML {
		if data, err = toYAML(data); err != nil {
			return err
		}
	} else {
		data = append(data, '\n')
	}
	if _, err := p.Out.Write(data); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// toYAML turns JSON, which is YAML in flow style, into block style.
func toYAML(data []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("encode output: %w", err)
	}
	block(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("encode output: %w", err)
	}
	return b.Bytes(), nil
}

func block(n *yaml.Node) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		if len(n.Content) > 0 {
			n.Style = 0
		}
	} else if n.Tag != "!!str" || !ambiguous(n.Value) {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}

// ambiguous tells whether a string needs its quotes to stay a string, also for readers of older YAML, to which
// "yes" is a boolean and "1:20" a number.
func ambiguous(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return true
	}
	if s == "" || !((s[0] < utf8.RuneSelf && unicode.IsLetter(rune(s[0]))) || s[0] == '/') || strings.HasSuffix(s, " ") {
		return true
	}
	return strings.ContainsFunc(s, func(r rune) bool {
		return r >= utf8.RuneSelf || !(unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(" ._-/@", r))
	})
}

// Table writes rows under a header, columns aligned with two blanks between them. Without rows it writes
// nothing; say so in a note.
func (p Printer) Table(header []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	_, isTerminal := Terminal(p.Out)
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			row[i] = Clean(cell)
			widths[i] = max(widths[i], runewidth.StringWidth(row[i]))
		}
	}
	var b strings.Builder
	write := func(row []string) {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-runewidth.StringWidth(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	if p.Color && isTerminal {
		b.WriteString("\x1b[1m")
		write(header)
		b.WriteString("\x1b[0m")
	} else {
		write(header)
	}
	for _, row := range rows {
		write(row)
	}
	fmt.Fprint(p.Out, b.String())
}

// Pair is one line of a key-value view.
type Pair struct{ Key, Value string }

// Pairs writes a key-value view; pairs without a value are left out.
func (p Printer) Pairs(pairs []Pair) {
	for _, pair := range pairs {
		if pair.Value != "" {
			fmt.Fprintf(p.Out, "%s: %s\n", Clean(pair.Key), Clean(pair.Value))
		}
	}
}

// Clean replaces what could steer a terminal or fake a line: control characters, and those that change the
// direction of text. What peers wrote passes through here before a person sees it.
func Clean(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, steering) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case steering(r):
			return utf8.RuneError
		default:
			return r
		}
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

func steering(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }
