// Command images writes the container images of this repository as OCI archives, without a container engine and
// without a base image: a static program, the authorities of certificates, licences and a bill of materials. The same
// commit and version of Go make the same bytes on any machine. It knows the OCI image format and what the images hold,
// and nothing of registries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	mainModule = "sallyport.dev/sallyport"
	licenceID  = "Apache-2.0"
	// maxBytes is what the files of one image may have together.
	maxBytes = 40_000_000
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1) //nolint:forbidigo // reason: this is main
	}
}

// options say what to build.
type options struct {
	// root is the main module's folder, out where archives go.
	root, out string
	// prefix is what references begin with; version is the tag and what programs call themselves.
	prefix, version, tag string
	revision, source     string
	created              time.Time
	platforms            []platform
	names                []string
}

// labels are what registries and scanners show of an image.
func (o options) labels(i image) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       i.title,
		"org.opencontainers.image.description": i.about,
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.revision":    o.revision,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
		"org.opencontainers.image.source":      o.source,
		"org.opencontainers.image.licenses":    licenceID,
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(ctx, args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil { //nolint:gosec // reason: images are no secret
		return err
	}
	chosen, err := choose(o.names)
	if err != nil {
		return err
	}
	return build(ctx, o, chosen, out)
}

// parse reads the command line; what it leaves out comes from git.
func parse(ctx context.Context, args []string) (options, error) {
	var o options
	var platforms, names, epoch string
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", ".", "folder of the main module")
	flags.StringVar(&o.out, "out", "build/images", "folder that the archives go to")
	flags.StringVar(&o.prefix, "prefix", "sallyport", "what references begin with, such as registry.example.org/sallyport")
	flags.StringVar(&o.tag, "tag", "", "tag of the references; empty takes the version")
	flags.StringVar(&o.version, "version", "", "version of the programs; empty asks git")
	flags.StringVar(&o.revision, "revision", "", "commit; empty asks git")
	flags.StringVar(&o.source, "source", "https://"+mainModule, "where the source is")
	flags.StringVar(&epoch, "epoch", os.Getenv("SOURCE_DATE_EPOCH"), "time of all files in seconds since 1970; empty takes the commit's")
	flags.StringVar(&platforms, "platforms", "", "for example linux/amd64,linux/arm64; empty is linux with this machine's architecture")
	flags.StringVar(&names, "images", "", "names of the images, separated by commas; empty is all")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for _, s := range []struct {
		value *string
		args  []string
	}{
		{&o.version, []string{"describe", "--always", "--dirty"}},
		{&o.revision, []string{"rev-parse", "HEAD"}},
		{&epoch, []string{"log", "-1", "--format=%ct"}},
	} {
		if *s.value == "" {
			text, err := output(ctx, o.root, "git", s.args...)
			if err != nil {
				return o, fmt.Errorf("%w; pass -version, -revision and -epoch where there is no git", err)
			}
			*s.value = strings.TrimSpace(text)
		}
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return o, fmt.Errorf("the time must be seconds since 1970, got %q", epoch)
	}
	o.created = time.Unix(seconds, 0).UTC()
	if o.tag == "" {
		o.tag = o.version
	}
	for _, word := range []string{o.tag, o.version} {
		if !tagForm(word) {
			return o, fmt.Errorf("%q is no tag: letters, digits, dots, hyphens and underscores, at most 128", word)
		}
	}
	o.platforms, err = parsePlatforms(platforms)
	o.names = strings.FieldsFunc(names, func(r rune) bool { return r == ',' })
	return o, err
}

func tagForm(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789._-"
	return s != "" && len(s) <= 128 && strings.Trim(strings.ToLower(s), letters) == "" && s[0] != '.' && s[0] != '-'
}

func parsePlatforms(text string) ([]platform, error) {
	if text == "" {
		return []platform{{"linux", runtime.GOARCH}}, nil
	}
	var out []platform
	for word := range strings.SplitSeq(text, ",") {
		system, architecture, ok := strings.Cut(strings.TrimSpace(word), "/")
		p := platform{system, architecture}
		if !ok || system != "linux" || architecture != "amd64" && architecture != "arm64" {
			return nil, fmt.Errorf("platform %q is not built: linux/amd64 and linux/arm64 are", word)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func choose(names []string) ([]image, error) {
	all := catalogue()
	if len(names) == 0 {
		return all, nil
	}
	var out []image
	for _, name := range names {
		n := slices.IndexFunc(all, func(i image) bool { return i.name == name })
		if n < 0 {
			return nil, fmt.Errorf("there is no image %q", name)
		}
		out = append(out, all[n])
	}
	return out, nil
}

// build compiles the programs for all platforms, then writes one archive an image.
func build(ctx context.Context, o options, images []image, out io.Writer) error {
	programs, err := os.MkdirTemp(o.out, ".programs-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(programs) }()
	for _, p := range o.platforms {
		if err := compile(ctx, o, p, images, filepath.Join(programs, p.file())); err != nil {
			return err
		}
	}
	shared, err := common()
	if err != nil {
		return err
	}
	base, err := pack(shared, o.created)
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := write(ctx, o, i, base, programs, out); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
	}
	return nil
}

func write(ctx context.Context, o options, i image, base *layer, programs string, out io.Writer) error {
	var all []*built
	for _, p := range o.platforms {
		file := filepath.Join(programs, p.file(), i.program)
		entries, bom, err := own(ctx, o, i, p, file)
		if err != nil {
			return err
		}
		l, err := pack(entries, o.created)
		if err != nil {
			return err
		}
		b, err := compose(i, p, o, []*layer{base, l}, []string{"authorities of certificates, user, /tmp", i.program + " " + o.version})
		if err != nil {
			return err
		}
		if n := b.bytes(); n > maxBytes {
			return fmt.Errorf("%d bytes for %s, more than %d", n, p, maxBytes)
		}
		if err := os.WriteFile(filepath.Join(o.out, i.name+"."+p.file()+".cdx.json"), bom, 0o644); err != nil { //nolint:gosec // reason: no secret
			return err
		}
		all = append(all, b)
	}
	reference := o.prefix + "/" + i.name + ":" + o.tag
	digest, err := archive(filepath.Join(o.out, i.name+".tar"), []string{reference}, o.labels(i), all, o.created)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s.tar  %s  %s  %.1f MB\n", filepath.Join(o.out, i.name), reference, digest, float64(all[0].bytes())/1e6)
	return nil
}

// own is what one image has beside what all have, and its bill of materials.
func own(ctx context.Context, o options, i image, p platform, file string) (entries []entry, bom []byte, err error) {
	made, err := examine(ctx, o, file)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	digest, err := digestOf(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, err
	}
	if bom, err = materials(i, p, o, made, digest); err != nil {
		return nil, nil, err
	}
	others, err := notices(made)
	if err != nil {
		return nil, nil, err
	}
	licence, err := os.ReadFile(filepath.Join(o.root, "LICENSE"))
	if err != nil {
		return nil, nil, err
	}
	path := binDir + "/" + i.program
	entries = []entry{
		program(path, file), text(licenceDir+"/LICENSE", licence), text(licenceDir+"/NOTICES", others), text(sbomDir+"/"+i.name+".cdx.json", bom),
	}
	for _, name := range i.aliases {
		entries = append(entries, alias(name, path))
	}
	for _, name := range i.writable {
		entries = append(entries, writable(name))
	}
	return entries, bom, nil
}
