package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// ErrHelp is returned when the caller asked for help; Usage has the text.
var ErrHelp = pflag.ErrHelp

// origin says where a value came from.
type origin struct {
	// layer is "flag", "variable", "file", "default" or, for what follows from other settings, "derived".
	layer string
	// text is the flag, the variable, file:line, or why it is what it is.
	text string
	// path is the key in the file, for the layer "file".
	path string
}

// Layers of a value, as Value.Layer reports them.
const (
	LayerFlag     = "flag"
	LayerVariable = "variable"
	LayerFile     = "file"
	LayerDefault  = "default"
	LayerDerived  = "derived"
)

// values holds what was found, with where it came from. Problems gather in it, so that all are told at once.
type values struct {
	env      func(string) (string, bool)
	value    map[string]string
	origin   map[string]origin
	tree     *tree  // nil without a file
	given    []byte // the file's text, if it is not to be read from disk
	sockets  map[string]string
	issuers  []any
	warnings []string
	problems Problems
	failed   map[string]bool // settings that have a problem
}

// load reads all layers; the first one that has a value wins. Its error is ErrHelp, or what makes further checks
// pointless.
func load(args []string, env func(string) (string, bool), given []byte) (*values, error) {
	args, foreign := dropForeign(joinBooleans(args))
	flags := flagSet(func(setting) bool { return true })
	if err := flags.Parse(args); err != nil {
		return nil, commandLineError(err)
	}
	if flags.NArg() > 0 {
		return nil, Problems{{Cause: fmt.Sprintf("unexpected argument %q", flags.Arg(0)), Remedy: "see --help"}}
	}
	v := &values{env: env, given: given, value: map[string]string{}, origin: map[string]origin{}, sockets: map[string]string{}, failed: map[string]bool{}}
	for _, f := range foreign {
		v.warn("%s has no effect: it configures a driver that is a process of its own here", f)
	}
	v.layerFlags(flags)
	v.layerEnv()
	if err := v.layerFile(); err != nil {
		return nil, Problems{err}
	}
	for _, s := range settings {
		value, ok := v.value[s.name]
		if !ok {
			v.value[s.name] = s.preset
			continue
		}
		if cause, remedy := s.check(value); cause != "" {
			v.fail(s.name, cause, remedy)
			v.value[s.name] = s.preset
		}
	}
	return v, nil
}

func commandLineError(err error) error {
	if err == pflag.ErrHelp { //nolint:errorlint // reason: it is returned as it is
		return ErrHelp
	}
	return Problems{{Cause: err.Error(), Remedy: "see --help"}}
}

// joinBooleans lets the two flags to which the newer reference gives a value take it as a word of its own.
func joinBooleans(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		takes := args[i] == "--enable-mtls-auth" || args[i] == "--enable-loopback-service-http"
		if takes && i+1 < len(args) && (args[i+1] == "true" || args[i+1] == "false") {
			out = append(out, args[i]+"="+args[i+1])
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// dropForeign takes out the flags by which the mvp generation configures its built-in drivers; all take a value.
func dropForeign(args []string) (kept, foreign []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		if !strings.HasPrefix(name, "--vm-") && !strings.HasPrefix(name, "--docker-") {
			kept = append(kept, args[i])
			continue
		}
		foreign = append(foreign, name)
		if !joined && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
	}
	return kept, foreign
}

// flagSet has the flags of the settings that want chooses.
func flagSet(want func(setting) bool) *pflag.FlagSet {
	flags := pflag.NewFlagSet("sallyport-gateway", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "driver" {
			name = "drivers"
		}
		return pflag.NormalizedName(name)
	})
	for _, s := range settings {
		if !s.hasFlag() || !want(s) {
			continue
		}
		help := s.usage + " [" + s.env + "]"
		switch s.kind {
		case boolean:
			flags.Bool(s.name, s.preset == "true", help)
		case list:
			flags.StringSlice(s.name, splitList(s.preset), help)
		default:
			flags.Var(&word{text: s.preset, kind: s.kind}, s.name, help)
		}
	}
	return flags
}

// word is the value of a flag that is checked later, together with variables and the file.
type word struct {
	text string
	kind kind
}

func (w *word) String() string { return w.text }

func (w *word) Set(text string) error {
	w.text = text
	return nil
}

// Type is what stands for the value in the help.
func (w *word) Type() string {
	switch w.kind {
	case number:
		return "number"
	case choice:
		return "word"
	default:
		return "text"
	}
}

// Usage is the text of --help: the settings by topic, without those that have no effect.
func Usage() string {
	var b strings.Builder
	b.WriteString("Each flag has a variable, in brackets; a flag wins over its variable, that over the configuration file, that over\n" +
		"the default. `sallyport-gateway config` checks and shows what is in force.\n")
	for t := range topicUnused {
		b.WriteString("\n" + topics[t] + ":\n")
		b.WriteString(flagSet(func(s setting) bool { return s.topic == t }).FlagUsagesWrapped(110))
	}
	return b.String()
}

func (v *values) put(name, value string, o origin) {
	if _, ok := v.value[name]; !ok {
		v.value[name], v.origin[name] = value, o
	}
}

// derive records what a setting comes to when nobody set it, and why.
func (v *values) derive(name, value, why string) {
	if v.set(name) {
		return
	}
	v.value[name] = value
	v.origin[name] = origin{layer: LayerDerived, text: why}
}

func (v *values) layerFlags(flags *pflag.FlagSet) {
	for _, s := range settings {
		f := flags.Lookup(s.name)
		if !s.hasFlag() || !f.Changed {
			continue
		}
		value := f.Value.String()
		if words, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(words.GetSlice(), ",")
		}
		v.put(s.name, value, origin{layer: LayerFlag, text: "--" + s.name})
	}
}

func (v *values) layerEnv() {
	for _, s := range settings {
		if s.env == "" {
			continue
		}
		value, ok := v.env(s.env)
		if ok && s.kind == number && isServiceLink(value) {
			v.warn("%s has no effect: it is a link that Kubernetes sets for a service of that name; set enableServiceLinks to false in the pod", s.env)
			continue
		}
		if ok {
			v.put(s.name, value, origin{layer: LayerVariable, text: s.env})
		}
	}
}

// isServiceLink tells whether a value is what Kubernetes puts into NAME_PORT for a service called name: such a service may
// happen to have the name of one of our variables.
func isServiceLink(value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://")
}

// fail tells of a problem with a setting, at the place that set it. One is told of each: the others follow from it.
func (v *values) fail(name, cause, remedy string) {
	if v.failed[name] {
		return
	}
	v.failed[name] = true
	p := v.place(name)
	p.Cause, p.Remedy = cause, remedy
	v.add(p)
}

// place is a problem with a setting that has no cause yet.
func (v *values) place(name string) *Problem {
	switch o := v.origin[name]; o.layer {
	case LayerFile:
		return v.tree.problem(o.path, "", "")
	case LayerFlag, LayerVariable:
		return &Problem{Key: o.text}
	default:
		return &Problem{Key: byName(name).label()}
	}
}

// failAt tells of a problem with a key of the file.
func (v *values) failAt(path, cause, remedy string) { v.add(v.tree.problem(path, cause, remedy)) }

func (v *values) add(p *Problem) {
	switch n := len(v.problems); {
	case n < maxProblems:
		v.problems = append(v.problems, p)
	case n == maxProblems:
		v.problems = append(v.problems, &Problem{Cause: "there are more problems", Remedy: "mend these first"})
	}
}

func (v *values) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

func (v *values) text(name string) string   { return v.value[name] }
func (v *values) flag(name string) bool     { return v.value[name] == "true" }
func (v *values) list(name string) []string { return splitList(v.value[name]) }

// set says whether somebody set the value, rather than a default or what follows from other settings.
func (v *values) set(name string) bool {
	layer := v.origin[name].layer
	return layer != "" && layer != LayerDerived
}

// said names a setting as whoever set it did.
func (v *values) said(name string) string {
	if o := v.origin[name]; o.layer != "" && o.layer != LayerDerived {
		return o.text
	}
	return byName(name).label()
}

// number returns a value that check has seen to be one; an empty one, which only a default is, is 0.
func (v *values) number(name string) int64 {
	n, err := strconv.ParseInt(v.value[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// reportUnused warns of what is set and has no effect.
func (v *values) reportUnused() {
	for _, s := range settings {
		if s.unused && v.set(s.name) {
			v.warn("%s has no effect: %s", v.said(s.name), s.usage)
		}
	}
}

// configPath is the explicit file, or the default one if it exists.
func (v *values) configPath() string {
	if v.set("config") {
		return v.value["config"]
	}
	dir, ok := v.env("XDG_CONFIG_HOME")
	if !ok || dir == "" {
		home, _ := v.env("HOME")
		dir = filepath.Join(home, ".config")
	}
	p := filepath.Join(dir, "openshell", "gateway.toml")
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	v.derive("config", p, "found")
	return p
}

func stateHome(env func(string) (string, bool)) (string, error) {
	if dir, ok := env("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return dir, nil
	}
	home, ok := env("HOME")
	if !ok || home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(home, ".local", "state"), nil
}
