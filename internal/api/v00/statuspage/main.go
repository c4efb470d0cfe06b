// Command statuspage writes docs/status.md from the code.
package main

import (
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/api/v00"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: statuspage FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(v00.StatusPage()), 0o644); err != nil { //nolint:gosec // reason: a page for everyone
		fmt.Fprintln(os.Stderr, "statuspage:", err)
		os.Exit(1)
	}
}
