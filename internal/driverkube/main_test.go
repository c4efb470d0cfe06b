package driverkube_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/driverkube"
)

// leave ends the driver. Under the race detector os.Exit waits a second for reports of other threads.
func leave(code int) {
	if races() > 0 {
		code = 66 // as the race detector has it
	}
	syscall.Exit(code)
}

// The test binary is also the driver.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "driver" {
		if err := driverkube.Execute(context.Background(), "test", os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			leave(1)
		}
		leave(0)
	}
	// The client library keeps connections to API servers, by design, for as long as the process lives.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"))
}
