package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// compile builds the programs of one platform into a folder. Nothing of the build machine gets into them but the
// version of Go: neither paths nor the state of the working tree.
func compile(ctx context.Context, o options, p platform, images []image, into string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version=" + o.version, "-o", into + string(filepath.Separator)}
	for _, i := range images {
		args = append(args, "./cmd/"+i.program)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture, "GOFLAGS=-mod=readonly",
		// A build machine's own choice of processor would make another program, which not every node could run.
		"GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build for %s: %w", p, err)
	}
	return nil
}

// module is a Go module that a program links.
type module struct {
	path, version, sum string
	// dir is its source.
	dir string
}

// contents is what a program is made of.
type contents struct {
	// goVersion is that of the compiler and the standard library, such as "go1.26.8".
	goVersion string
	goRoot    string
	modules   []module
}

// examine reads out of a program which modules it links, and finds their sources.
func examine(ctx context.Context, o options, program string) (*contents, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read what %s is made of: %w", program, err)
	}
	c := &contents{goVersion: info.GoVersion}
	paths := []string{}
	for _, d := range info.Deps {
		m := module{path: d.Path, version: d.Version, sum: d.Sum}
		if d.Replace != nil {
			m = module{path: d.Replace.Path, version: d.Replace.Version, sum: d.Replace.Sum}
		}
		c.modules = append(c.modules, m)
		paths = append(paths, d.Path)
	}
	dirs, err := moduleDirs(ctx, o.root, paths)
	if err != nil {
		return nil, err
	}
	for n, p := range paths {
		if c.modules[n].dir = dirs[p]; c.modules[n].dir == "" {
			return nil, fmt.Errorf("the source of %s is not to be found", p)
		}
	}
	out, err := output(ctx, o.root, "go", "env", "GOROOT")
	c.goRoot = strings.TrimSpace(out)
	return c, err
}

// moduleDirs returns the folders of modules of the main module's build list.
func moduleDirs(ctx context.Context, root string, paths []string) (map[string]string, error) {
	dirs := map[string]string{}
	if len(paths) == 0 {
		return dirs, nil
	}
	out, err := output(ctx, root, "go", append([]string{"list", "-mod=readonly", "-m", "-json=Path,Dir"}, paths...)...)
	if err != nil {
		return nil, err
	}
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		switch err := decoder.Decode(&m); {
		case errors.Is(err, io.EOF):
			return dirs, nil
		case err != nil:
			return nil, fmt.Errorf("read the list of modules: %w", err)
		}
		dirs[m.Path] = m.Dir
	}
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}

// noticeNames are beginnings of names of files that a licence asks to be passed on.
var noticeNames = []string{"license", "licence", "copying", "notice", "patents", "copyright"}

// notices is one text with the licences of everything that is linked, in the order of the modules.
func notices(c *contents) ([]byte, error) {
	sources := append([]module{{path: "The Go standard library", version: c.goVersion, dir: c.goRoot}}, c.modules...)
	var out bytes.Buffer
	fmt.Fprintf(&out, "This program contains the following, each under its own licence.\n")
	for _, m := range sources {
		entries, err := os.ReadDir(m.dir)
		if err != nil {
			return nil, fmt.Errorf("look for the licence of %s: %w", m.path, err)
		}
		found := 0
		for _, e := range entries {
			lower := strings.ToLower(e.Name())
			if e.IsDir() || strings.HasSuffix(lower, ".go") || !slices.ContainsFunc(noticeNames, func(n string) bool { return strings.HasPrefix(lower, n) }) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(m.dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("read the licence of %s: %w", m.path, err)
			}
			fmt.Fprintf(&out, "\n%s\n%s %s, %s\n%s\n\n%s\n", strings.Repeat("=", 80), m.path, m.version, e.Name(), strings.Repeat("-", 80), bytes.TrimSpace(data))
			found++
		}
		if found == 0 {
			return nil, fmt.Errorf("%s %s comes without a licence: it may not be passed on", m.path, m.version)
		}
	}
	return out.Bytes(), nil
}
