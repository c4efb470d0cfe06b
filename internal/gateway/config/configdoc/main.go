// Command configdoc writes the JSON schema of the gateway's configuration file, and the generated parts of
// docs/configuration.md, from the table of settings. It knows where they are and nothing of what they say.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sallyport.dev/sallyport/internal/gateway/config"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "configdoc:", err)
		os.Exit(1) //nolint:forbidigo // reason: this is main
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the folder of the documents, got %d", len(args))
	}
	if err := os.WriteFile(filepath.Join(args[0], "gateway.schema.json"), config.Schema(), 0o644); err != nil { //nolint:gosec // reason: a file for everyone
		return err
	}
	path := filepath.Join(args[0], "configuration.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if page, err = config.Reference(page); err != nil {
		return err
	}
	return os.WriteFile(path, page, 0o644) //nolint:gosec // reason: a page for everyone
}
