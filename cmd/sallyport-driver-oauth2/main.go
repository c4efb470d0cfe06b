// Command sallyport-driver-oauth2 serves OAuth 2.0 client-credentials tokens to a gateway over a Unix socket.
package main

import (
	"context"
	"fmt"
	"os"

	"sallyport.dev/sallyport/internal/driveroauth2"
)

var version = "unknown"

func main() {
	if err := driveroauth2.Command(version).ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sallyport-driver-oauth2:", err)
		os.Exit(1)
	}
}
