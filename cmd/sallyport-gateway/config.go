package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
)

const configUsage = `Usage:
  sallyport-gateway config check [flags]
      Read the settings as the gateway would, and the certificates they name. Prints one line for each problem:
      file:line:column: key: cause; remedy. Exit status 0 when there is none, else 2.
  sallyport-gateway config show [-o toml|json] [flags]
      Print what is in force, secrets masked, each value with where it came from.
  sallyport-gateway config schema
      Print the JSON schema of the configuration file.

The flags are those of the gateway: see sallyport-gateway --help.
`

func configCommand(_ context.Context, args []string, p process) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "check":
		return configCheck(args, p)
	case "show":
		return configShow(args, p)
	case "schema":
		if len(args) > 0 {
			return p.fail(exitUsage, fmt.Errorf("config schema takes no arguments, got %q", args[0]))
		}
		fmt.Fprint(p.stdout, string(config.Schema()))
		return 0
	case "-h", "--help", "help":
		fmt.Fprint(p.stdout, configUsage)
		return 0
	case "":
		return p.fail(exitUsage, errors.New("config needs one of check, show and schema"))
	}
	return p.fail(exitUsage, fmt.Errorf("config has no command %q; it has check, show and schema", name))
}

func configCheck(args []string, p process) int {
	c, problems, err := config.Check(args, p.env)
	if err != nil {
		fmt.Fprint(p.stdout, configUsage)
		return 0
	}
	warnings := c.Warnings
	if len(problems) == 0 {
		more, expiring := c.CheckFiles(time.Now())
		problems, warnings = more, append(warnings, expiring...)
	}
	for _, problem := range problems {
		fmt.Fprintln(p.stdout, problem)
	}
	for _, w := range warnings {
		fmt.Fprintln(p.stdout, "warning:", w)
	}
	if len(problems) > 0 {
		return exitUsage
	}
	where := "flags, variables and defaults"
	if c.File != "" {
		where = c.File
	}
	fmt.Fprintf(p.stdout, "%s: no problems, %d warnings\n", where, len(warnings))
	return 0
}

func configShow(args []string, p process) int {
	args, format, err := takeOutput(args)
	if err != nil {
		return p.fail(exitUsage, err)
	}
	c, err := config.Parse(args, p.env)
	if errors.Is(err, config.ErrHelp) {
		fmt.Fprint(p.stdout, configUsage)
		return 0
	}
	if err != nil {
		return p.fail(exitUsage, err)
	}
	if format == "toml" {
		fmt.Fprint(p.stdout, c.TOML())
		return 0
	}
	out, err := c.JSON()
	if err != nil {
		return p.fail(1, err)
	}
	fmt.Fprintln(p.stdout, string(out))
	return 0
}

// takeOutput takes -o and --output out of args; every other flag is the gateway's.
func takeOutput(args []string) (rest []string, format string, err error) {
	format = "toml"
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		if name != "-o" && name != "--output" {
			rest = append(rest, args[i])
			continue
		}
		if !joined {
			if i+1 == len(args) {
				return nil, "", fmt.Errorf("%s needs a format, toml or json", name)
			}
			i++
			value = args[i]
		}
		if value != "toml" && value != "json" {
			return nil, "", fmt.Errorf("%s must be toml or json, got %q", name, value)
		}
		format = value
	}
	return rest, format, nil
}
