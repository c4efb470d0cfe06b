package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// exitUsage is the status of a command line or configuration that is wrong.
const exitUsage = 2

// command is what the first word of a command line may choose.
type command struct {
	// synopsis and short are for the help.
	synopsis, short string
	// run gets the words after the command's name and returns the exit status.
	run func(ctx context.Context, args []string, p process) int
}

// commands are all of them. A new one is a line here and a file of its own.
func commands() map[string]command {
	return map[string]command{
		"backup":   {synopsis: "backup --to PATH", short: "copy the database and its keys while the gateway runs", run: backupCommand},
		"config":   {synopsis: "config check|show|schema", short: "check the settings, show what is in force, print the JSON schema", run: configCommand},
		"database": {synopsis: "database check|copy", short: "look at a PostgreSQL database, or copy one database into another", run: databaseCommand},
		"generate-certs": {
			synopsis: "generate-certs --output-dir DIR | --server-secret-name NAME ...", short: "make and renew certificates and keys, in a folder or in Secrets of Kubernetes", run: generateCertsCommand,
		},
		"keys": {
			synopsis: "keys list|rotate|retire|list-credential-keys|rotate-credential-key", short: "look after the keys that sign sandbox tokens and those that encrypt credentials",
			run: keysCommand,
		},
		"restore": {synopsis: "restore --from PATH", short: "check a backup and put it in place", run: restoreCommand},
	}
}

// usage is the text of --help.
func usage() string {
	var b strings.Builder
	b.WriteString("Usage:\n  sallyport-gateway [flags]     serve\n")
	names := make([]string, 0, len(commands()))
	for name := range commands() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := commands()[name]
		fmt.Fprintf(&b, "  sallyport-gateway %s [flags]\n      %s\n", c.synopsis, c.short)
	}
	return b.String() + "\n" + config.Usage()
}
