// Command statuspage writes docs/status.md from the code.
package main

import (
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/api/v00"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "statuspage:", err)
		os.Exit(1) //nolint:forbidigo // reason: this is main
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the file to write, got %d", len(args))
	}
	return os.WriteFile(args[0], []byte(v00.StatusPage()), 0o644) //nolint:gosec // reason: a page for everyone
}
