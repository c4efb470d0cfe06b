package config

import (
	"bytes"
	"fmt"
	"strings"
)

//go:generate go run ./configdoc ../../../docs

// Reference replaces the generated parts of docs/configuration.md: what is between the lines
// "<!-- generated: NAME -->" and "<!-- end -->". It fails on a name that it does not know.
func Reference(page []byte) ([]byte, error) {
	var out bytes.Buffer
	skip := false
	for line := range strings.Lines(string(page)) {
		marker := strings.TrimSpace(line)
		if marker == "<!-- end -->" {
			skip = false
		}
		if !skip {
			out.WriteString(line)
		}
		name, ok := strings.CutPrefix(marker, "<!-- generated: ")
		if !ok {
			continue
		}
		part, err := referencePart(strings.TrimSuffix(name, " -->"))
		if err != nil {
			return nil, err
		}
		out.WriteString(part)
		skip = true
	}
	if skip {
		return nil, fmt.Errorf("the last generated part has no end")
	}
	return out.Bytes(), nil
}

func referencePart(name string) (string, error) {
	switch name {
	case "issuer":
		return issuerTable(), nil
	case "unused":
		return unusedTable(), nil
	case "reference":
		return referenceTable(), nil
	}
	for t, title := range topics {
		if title == name {
			return topicTable(t), nil
		}
	}
	return "", fmt.Errorf("no generated part is named %q", name)
}

// topicTable describes the settings of a topic.
func topicTable(t topic) string {
	var b strings.Builder
	b.WriteString("| Flag | Variable | File key | Default | Meaning |\n|---|---|---|---|---|\n")
	for _, s := range settings {
		if s.topic != t {
			continue
		}
		meaning := s.usage
		if s.live {
			meaning += " ↻"
		}
		if s.more != "" {
			meaning += ". " + s.more
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", s.flagName(), code(s.env), code(s.file), s.shownDefault(), strings.ReplaceAll(meaning, "|", `\|`))
	}
	return b.String()
}

func (s setting) flagName() string {
	if !s.hasFlag() {
		return ""
	}
	return code("--" + s.name)
}

func (s setting) shownDefault() string {
	if s.shown != "" {
		return s.shown
	}
	return code(s.preset)
}

func issuerTable() string {
	var b strings.Builder
	b.WriteString("| Key | Default | Meaning |\n|---|---|---|\n")
	for _, f := range issuerFields {
		preset := ""
		switch {
		case f.like != "":
			preset = byName(f.like).shownDefault()
		case f.kind == fieldFlag:
			preset = code("false")
		}
		usage := f.usage
		if !f.alone {
			usage += ". Also in `[openshell.gateway.oidc]`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", code(f.key), preset, usage)
	}
	return b.String()
}

func unusedTable() string {
	var b strings.Builder
	b.WriteString("| Flag | Variable | File key | Why |\n|---|---|---|---|\n")
	for _, s := range settings {
		if s.unused {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.flagName(), code(s.env), code(s.file), s.usage)
		}
	}
	b.WriteString("\nFile keys and tables without a flag: ")
	for i, k := range unusedKeys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(code(k))
	}
	b.WriteString(".\n")
	return b.String()
}

// referenceTable says what becomes of each flag of the reference gateways.
func referenceTable() string {
	var b strings.Builder
	b.WriteString("| Reference | File key of the newer one | Here |\n|---|---|---|\n")
	for _, s := range settings {
		if !strings.HasPrefix(s.env, "OPENSHELL_") {
			continue
		}
		name, file := code(s.env), code(s.file)
		if s.hasFlag() {
			name = s.flagName() + ", " + name
		}
		if s.name == "credentials-driver-socket" {
			file = "" // A key of ours.
		}
		here := "same"
		switch {
		case s.unused:
			here = "no effect: " + s.usage
		case referenceNotes[s.name] != "":
			here = referenceNotes[s.name]
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, file, here)
	}
	b.WriteString("| `--vm-*`, `--docker-*` | | no effect: the driver is a process of its own |\n")
	b.WriteString("| `generate-certs` | | not built; certificates are made elsewhere |\n")
	return b.String()
}

// referenceNotes are differences that an operator who comes from a reference gateway must know.
var referenceNotes = map[string]string{
	"port":                           "the newer one's default; the older one's is 8080",
	"log-level":                      "`RUST_LOG` is not read",
	"tls-client-ca":                  "optional, as in the newer one",
	"disable-tls":                    "certificate and key are ignored with a warning; a client authority is an error",
	"disable-gateway-auth":           "has effect only together with `--tls-client-ca`",
	"enable-mtls-auth":               "never on by itself",
	"db-url":                         "same; one gateway at a time with either database",
	"drivers":                        "required: nothing is detected",
	"compute-driver-socket":          "used with any driver name",
	"credentials-driver-socket":      "the gateway starts without the driver and is not ready until it is there",
	"oidc-issuer":                    "the gateway starts without the provider; more issuers in the file",
	"oidc-audience":                  "tokens without an audience are refused unless `--oidc-allow-missing-audience` is given",
	"oidc-jwks-ttl":                  "at least 10",
	"oidc-admin-role":                "both empty: the mode `authenticated`",
	"oidc-user-role":                 "both empty: the mode `authenticated`",
	"server-san":                     "wildcards open domains of services; certificates are made elsewhere",
	"enable-loopback-service-http":   "off unless switched on: services need a sign-in",
	"grpc-rate-limit-requests":       "a bucket for each caller instead of one for all",
	"grpc-rate-limit-window-seconds": "see above",
	"ssh-handshake-secret":           "only with `--allow-shared-sandbox-secret`",
	"local-tls-dir":                  "the same files; a `jwt` bundle is used with `--sandbox-token-ttl-secs`, not for ever",
}

// code marks a word as one to type.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
