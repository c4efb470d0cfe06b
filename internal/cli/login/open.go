package login

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"strings"

	"sallyport.dev/sallyport/internal/cli/profile"
)

// NoBrowserEnv forbids starting a browser when it is 1 or true.
const NoBrowserEnv = "OPENSHELL_NO_BROWSER"

var errNoDisplay = errors.New("there is no display")

// Opener returns what opens a URL in the desktop's browser, or nil when the environment forbids it.
func Opener(env profile.Env) func(ctx context.Context, url string) error {
	if v, _ := env(NoBrowserEnv); v == "1" || strings.EqualFold(v, "true") {
		return nil
	}
	return func(ctx context.Context, url string) error {
		name, args := "xdg-open", []string{url}
		switch runtime.GOOS {
		case "darwin":
			name = "open"
		case "windows":
			// Not "cmd /C start", which takes every & of a URL for the end of a command.
			name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
		default:
			x11, _ := env("DISPLAY")
			wayland, _ := env("WAYLAND_DISPLAY")
			if x11 == "" && wayland == "" {
				return errNoDisplay
			}
		}
		// The browser outlives this command, so that it is not bound to ctx.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), name, args...)
		if err := cmd.Start(); err != nil {
			return err
		}
		return cmd.Process.Release()
	}
}
