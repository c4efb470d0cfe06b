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
		return errors.New("want one argument, the page of metrics")
	}
	page, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	if page, err = gateway.MetricsReference(page); err != nil {
		return err
	}
	return os.WriteFile(args[0], page, 0o644) //nolint:gosec // reason: a document that everybody may read
}
