package contract

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// columns of a table: kind, owner, name, tag, type, detail, generations. The last one says which
// generations of the reference project know the fact; it is for readers and decides nothing here.
const columns = 7

// ReadTable parses a table: tab-separated lines of the columns above; empty lines and lines that begin
// with '#' are skipped. It fails on a malformed line, an unknown kind and a key that occurs twice.
func ReadTable(r io.Reader) ([]Fact, error) {
	var facts []Fact
	seen := map[Key]bool{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "\t")
		if len(cells) != columns {
			return nil, fmt.Errorf("read line %d: %d columns instead of %d", n, len(cells), columns)
		}
		fact := Fact{Key: Key{Kind: Kind(cells[0]), Owner: cells[1], Name: cells[2]}, Tag: cells[3], Type: cells[4], Detail: cells[5]}
		if !slices.Contains([]Kind{KindMethod, KindField, KindEnum}, fact.Kind) {
			return nil, fmt.Errorf("read line %d: unknown kind %q", n, fact.Kind)
		}
		if seen[fact.Key] {
			return nil, fmt.Errorf("read line %d: %s occurs twice", n, fact.Key)
		}
		seen[fact.Key] = true
		facts = append(facts, fact)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	slices.SortFunc(facts, compareFacts)
	return facts, nil
}

// Compare returns one line for each way in which the facts got differ from the facts want, sorted by key;
// none when they agree.
func Compare(want, got []Fact) []string {
	have := make(map[Key]Fact, len(got))
	for _, fact := range got {
		have[fact.Key] = fact
	}
	var differences []string
	for _, w := range want {
		g, ok := have[w.Key]
		delete(have, w.Key)
		switch {
		case !ok:
			differences = append(differences, fmt.Sprintf("%s: missing (tag %s, type %s, detail %s)", w.Key, w.Tag, w.Type, w.Detail))
		case g != w:
			differences = append(differences, fmt.Sprintf("%s: tag %s, type %s, detail %s; want tag %s, type %s, detail %s",
				w.Key, g.Tag, g.Type, g.Detail, w.Tag, w.Type, w.Detail))
		}
	}
	for key, g := range have {
		differences = append(differences, fmt.Sprintf("%s: not in the table (tag %s, type %s, detail %s)", key, g.Tag, g.Type, g.Detail))
	}
	slices.Sort(differences)
	return differences
}
