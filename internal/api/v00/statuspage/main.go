// Command statuspage writes docs/status.md from the code.
package main

import (
	"log"
	"os"

	"sallyport.dev/sallyport/internal/api/v00"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: statuspage FILE")
	}
	if err := os.WriteFile(os.Args[1], []byte(v00.StatusPage()), 0o644); err != nil { //nolint:gosec // reason: a page for everyone
		log.Fatal("statuspage: ", err)
	}
}
