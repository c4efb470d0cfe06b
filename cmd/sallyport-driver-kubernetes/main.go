// Command sallyport-driver-kubernetes is the compute driver for Kubernetes: a sandbox is a Sandbox object of the
// agent-sandbox project with its pod.
package main

import (
	"context"
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/driverkube"
)

var version = "unknown"

func main() {
	if err := driverkube.Execute(context.Background(), version, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sallyport-driver-kubernetes:", err)
		os.Exit(1)
	}
}
