// Command sallyport-driver-process is the compute driver for one Linux machine: a sandbox is a supervisor
// process with its own directory, environment and, where kernel and privileges allow, namespaces and limits.
package main

import (
	"context"
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/driverprocess"
	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

var version = "unknown"

func main() {
	// The first process of each sandbox is this binary again.
	if sandboxinit.Requested(os.Args) {
		os.Exit(sandboxinit.Main())
	}
	if err := driverprocess.Command(version).ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sallyport-driver-process:", err)
		os.Exit(1)
	}
}
