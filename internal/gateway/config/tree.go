package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds the configuration file in bytes.
const maxFile = 1 << 20

// tree is a TOML file: its values and where each key was written.
type tree struct {
	path   string
	root   map[string]any
	offset map[string]int // by path, see joined
	lines  []int          // offset of the first byte of each line
	raw    []byte
}

// readTree reads a file. A failure is one problem.
func readTree(path string) (*tree, *Problem) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &Problem{Cause: fmt.Sprintf("read the configuration file: %v", err), Remedy: "name an existing file or leave it out"}
	}
	if !info.Mode().IsRegular() {
		return nil, &Problem{File: path, Cause: "not a regular file", Remedy: "name a file"}
	}
	if info.Size() > maxFile {
		return nil, &Problem{File: path, Cause: fmt.Sprintf("larger than %d bytes", maxFile), Remedy: "make it shorter"}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, &Problem{Cause: fmt.Sprintf("read the configuration file: %v", err), Remedy: "let the gateway's user read it"}
	}
	return parseTree(path, raw)
}

func parseTree(path string, raw []byte) (*tree, *Problem) {
	t := &tree{path: path, root: map[string]any{}, offset: map[string]int{}, lines: []int{0}, raw: raw}
	if len(raw) > maxFile {
		return nil, &Problem{File: path, Cause: fmt.Sprintf("larger than %d bytes", maxFile), Remedy: "make it shorter"}
	}
	if err := toml.Unmarshal(raw, &t.root); err != nil {
		p := &Problem{File: path, Cause: strings.TrimPrefix(err.Error(), "toml: "), Remedy: "mend the TOML"}
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, p.Column = d.Position()
			p.Key = strings.Join(d.Key(), ".")
		}
		return nil, p
	}
	for i, c := range raw {
		if c == '\n' {
			t.lines = append(t.lines, i+1)
		}
	}
	t.locate()
	return t, nil
}

// locate notes where each key is. The parser has no errors left: Unmarshal saw the same bytes.
func (t *tree) locate() {
	var parser unstable.Parser
	parser.Reset(t.raw)
	tables := map[string]int{} // number of elements of each array of tables
	prefix := ""
	for parser.NextExpression() {
		e := parser.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			prefix = t.header(e, tables)
		case unstable.KeyValue:
			t.keyValue(prefix, e)
		default:
		}
	}
}

// header notes the parts of a table's name and returns its path.
func (t *tree) header(e *unstable.Node, tables map[string]int) string {
	prefix := ""
	for it := e.Key(); it.Next(); {
		prefix = joined(prefix, string(it.Node().Data))
		t.note(prefix, it.Node())
		last := it.IsLast()
		if e.Kind == unstable.ArrayTable && last {
			tables[prefix]++
		}
		if n := tables[prefix]; n > 0 {
			prefix = indexed(prefix, n-1)
			t.note(prefix, it.Node())
		}
	}
	return prefix
}

func (t *tree) keyValue(prefix string, e *unstable.Node) {
	for it := e.Key(); it.Next(); {
		prefix = joined(prefix, string(it.Node().Data))
		t.note(prefix, it.Node())
	}
	t.value(prefix, e.Value())
}

func (t *tree) value(path string, n *unstable.Node) {
	switch n.Kind {
	case unstable.InlineTable:
		for it := n.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				t.keyValue(path, it.Node())
			}
		}
	case unstable.Array:
		i := 0
		for it := n.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			element := indexed(path, i)
			if it.Node().Raw.Length > 0 {
				t.note(element, it.Node())
			}
			t.value(element, it.Node())
			i++
		}
	default:
	}
}

// note keeps the first place of a path.
func (t *tree) note(path string, n *unstable.Node) {
	if _, ok := t.offset[path]; !ok {
		t.offset[path] = int(n.Raw.Offset)
	}
}

// position returns line and column of a path, or of the nearest path around it that is known. 0, 0 means neither.
func (t *tree) position(path string) (line, column int) {
	for path != "" {
		if at, ok := t.offset[path]; ok {
			line = sort.SearchInts(t.lines, at+1)
			return line, utf8.RuneCount(t.raw[t.lines[line-1]:at]) + 1
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0, 0
}

// problem is one about a path, which the reader is told as it would be written.
func (t *tree) problem(path, cause, remedy string) *Problem {
	line, column := t.position(path)
	return &Problem{File: t.path, Line: line, Column: column, Key: path, Cause: cause, Remedy: remedy}
}

// joined appends a key to a path, quoted where TOML wants that.
func joined(path, key string) string {
	if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		key = quoted(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func indexed(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// quoted writes a basic TOML string.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
