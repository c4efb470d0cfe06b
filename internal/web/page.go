package web

import (
	_ "embed"
	"html/template"
)

// The pages.
const (
	waiting = "waiting"
	confirm = "confirm"
	failed  = "failed"
)

// view is what a page shows.
type view struct {
	Nonce   string
	Port    uint16
	Code    string
	Token   string
	Host    string
	Version string
	Text    string
}

//go:embed pages.html
var source string

// templates escape every value for the place where it stands: markup, attribute, address or script.
var templates = template.Must(template.New("").Parse(source))
