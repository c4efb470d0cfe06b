// Command metricsdoc writes the table of docs/metrics.md from the gateway's own list of series. It knows where the page is
// and nothing of what it says.
package main

import (
	"errors"
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/gateway"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "metricsdoc:", err)
		os.Exit(1) //nolint:forbidigo // reason: this is main
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument, the folder of the documents")
	}
	docs, err := os.OpenRoot(args[0])
	if err != nil {
		return err
	}
	defer docs.Close()
	page, err := docs.ReadFile("metrics.md")
	if err != nil {
		return err
	}
	if page, err = gateway.MetricsReference(page); err != nil {
		return err
	}
	return docs.WriteFile("metrics.md", page, 0o644)
}
