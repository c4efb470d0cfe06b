package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
)

// bill is a bill of materials in the CycloneDX format, 1.6, as much of it as is used.
type bill struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     billMetadata `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type billMetadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licenses   []licence  `json:"licenses,omitempty"`
	URL        string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licence struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// authoritiesModule is where the bundle of authorities comes from.
const authoritiesModule = "golang.org/x/crypto/x509roots/fallback"

// materials lists what an image holds: the program, every module it links with the checksum of Go's database, the
// standard library, and the authorities. It has neither a random number nor the time of the build.
func materials(i image, p platform, o options, c *contents, programDigest string) ([]byte, error) {
	own := component{
		Type: "application", Ref: "pkg:golang/" + mainModule + "@" + o.version + "#cmd/" + i.program, Name: i.program, Version: o.version,
		Hashes:     []hash{{"SHA-256", strings.TrimPrefix(programDigest, "sha256:")}},
		Properties: []property{{"sallyport:platform", p.String()}, {"sallyport:revision", o.revision}},
	}
	own.URL = own.Ref
	own.Licenses = make([]licence, 1)
	own.Licenses[0].License.ID = licenceID
	version := strings.TrimPrefix(c.goVersion, "go")
	library := component{Type: "library", Ref: "pkg:golang/std@" + version, URL: "pkg:golang/std@" + version, Name: "std", Version: version}
	components := []component{library}
	for _, m := range c.modules {
		component, err := componentOf(m)
		if err != nil {
			return nil, err
		}
		components = append(components, component)
	}
	roots, err := authoritiesComponent()
	if err != nil {
		return nil, err
	}
	components = append(components, roots)
	depends := dependency{Ref: own.Ref}
	for _, c := range components {
		depends.DependsOn = append(depends.DependsOn, c.Ref)
	}
	b := bill{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Components: components, Dependencies: []dependency{depends},
		Metadata: billMetadata{Timestamp: o.created.Format("2006-01-02T15:04:05Z"), Component: own},
	}
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the bill of materials: %w", err)
	}
	return append(out, '\n'), nil
}

// componentOf describes a module. Go's checksum is the SHA-256 of the list of its files' SHA-256, in base64.
func componentOf(m module) (component, error) {
	c := component{
		Type: "library", Ref: "pkg:golang/" + m.path + "@" + m.version, URL: "pkg:golang/" + m.path + "@" + m.version, Name: m.path, Version: m.version,
	}
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.sum, "h1:"))
	if err != nil || !strings.HasPrefix(m.sum, "h1:") || len(sum) != 32 {
		return component{}, fmt.Errorf("%s %s has no checksum that is understood: %q", m.path, m.version, m.sum)
	}
	c.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum)}}
	c.Properties = []property{{"sallyport:go-sum", m.sum}}
	return c, nil
}

// authoritiesComponent is the module of the authorities, which this program has linked and the image has not.
func authoritiesComponent() (component, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return component{}, fmt.Errorf("this program does not know what it is made of")
	}
	for _, d := range info.Deps {
		if d.Path == authoritiesModule {
			c, err := componentOf(module{path: d.Path, version: d.Version, sum: d.Sum})
			c.Type = "data"
			return c, err
		}
	}
	return component{}, fmt.Errorf("this program does not link %s", authoritiesModule)
}
