package config

import (
	"fmt"
	"strings"
)

// maxProblems bounds what is told about one set of settings.
const maxProblems = 100

// Problem is one thing that is wrong with the settings.
type Problem struct {
	// File, Line and Column say where; File is empty when a flag, a variable or a default is wrong. Line and Column
	// count from 1 and are 0 when the file as a whole is meant.
	File         string
	Line, Column int
	// Key is the flag, the variable or the full key of the file; empty when the file as a whole is meant.
	Key string
	// Cause says what is wrong, Remedy what to do.
	Cause, Remedy string
}

// Error is "file:line:column: key: cause; remedy" without the parts that are not known.
func (p *Problem) Error() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	case p.File != "":
		b.WriteString(p.File + ": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Cause + "; " + p.Remedy
}

// Problems are all that is wrong, in the order in which it was found. As an error it is never empty.
type Problems []*Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// closest is the word of known that was probably meant by word, or "".
func closest(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(word, k, distance); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits counts the letters to insert, delete or change between a and b, or returns limit when there are as many.
func edits(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
