// Command configdoc writes the JSON schema of the gateway's configuration file, and the generated parts of
// docs/configuration.md, from the table of settings. It knows where they are and nothing of what they say.
package main

import (
	"errors"
	"fmt"
	"os"

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
	docs, err := os.OpenRoot(args[0])
	if err != nil {
		return err
	}
	defer docs.Close()
	page, err := docs.ReadFile("configuration.md")
	if err != nil {
		return err
	}
	if page, err = config.Reference(page); err != nil {
		return err
	}
	return errors.Join(docs.WriteFile("gateway.schema.json", config.Schema(), 0o644), docs.WriteFile("configuration.md", page, 0o644))
}
