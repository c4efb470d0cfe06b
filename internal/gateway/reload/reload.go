// Package reload notices that the configuration changed: a signal, or another look at the files it is made of. It has
// the settings read anew and hands them on when they are sound; settings that are not leave the old ones in force. It
// must not know what the settings mean or who uses them.
package reload

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// Interval is the time between two looks at the files. A change is acted on when two looks in a row find the same, so
// that a file that is being written, or a certificate whose key comes a moment later, is read when it is whole.
const Interval = time.Second

// Options are what Watch needs.
type Options struct {
	// Current is the configuration in force.
	Current *config.Config
	// Parse reads the settings anew, from the same command line and environment.
	Parse func() (*config.Config, error)
	// Files are the files to look at; nil means (*config.Config).Files. A name may be a link: what it leads to counts.
	Files func(*config.Config) []string
	// Signal asks for a reload at once, such as SIGHUP; nil means that only the files do.
	Signal <-chan os.Signal
	// Apply puts next in force. It is called when a file changed even if no setting did, because a certificate may
	// have. If it fails, old must still be in force. Calls do not overlap.
	Apply func(old, next *config.Config) error
	// Observe is told of each change that was put in force, with nil, or refused, with the reason; nil is nobody.
	Observe func(error)
	// Logger is told what happened; nil discards.
	Logger *slog.Logger
}

// Watch reloads until ctx ends. It returns an error only if options are missing.
func Watch(ctx context.Context, o Options) error {
	if o.Current == nil || o.Parse == nil || o.Apply == nil {
		return errors.New("reload: Current, Parse and Apply are needed")
	}
	if o.Files == nil {
		o.Files = (*config.Config).Files
	}
	if o.Observe == nil {
		o.Observe = func(error) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &watcher{Options: o}
	w.loop(ctx)
	return nil
}

type watcher struct {
	Options
	// seen is what the last look found, loaded what was there when the settings in force were read.
	seen, loaded look
}

func (w *watcher) loop(ctx context.Context) {
	w.seen = lookAt(w.Files(w.Current))
	w.loaded = w.seen
	// Whoever read Current did so before the first look.
	if next, err := w.Parse(); err != nil || len(config.Diff(w.Current, next)) > 0 {
		w.reload("changed before the first look")
	}
	ticks := time.NewTicker(Interval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Signal:
			w.reload("signal")
		case <-ticks.C:
			now := lookAt(w.Files(w.Current))
			calm := now.same(w.seen)
			w.seen = now
			if calm && !now.same(w.loaded) {
				w.reload("file changed")
			}
		}
	}
}

// reload reads the settings and puts them in force if they are sound. The files that were looked at count as loaded in
// any case: the same broken file is not reported every second.
func (w *watcher) reload(why string) {
	before := lookAt(w.Files(w.Current))
	w.seen, w.loaded = before, before
	next, err := w.Parse()
	if err != nil {
		w.refused(why, err)
		return
	}
	changes := config.Diff(w.Current, next)
	if err := w.Apply(w.Current, next); err != nil {
		w.refused(why, err)
		return
	}
	w.Current = next
	w.Observe(nil)
	w.Logger.Info("configuration reloaded", "why", why, "changes", len(changes))
	for _, c := range changes {
		if !c.Reloadable {
			w.Logger.Warn("a changed setting takes effect when the gateway starts again", "key", c.Key, "old", c.Old, "new", c.New)
		}
	}
	// Other files may be named now. Those that were looked at before they were read are not looked at again, so that
	// what changed meanwhile is noticed.
	after := lookAt(w.Files(next))
	for name := range after {
		if info, ok := before[name]; ok {
			after[name] = info
		}
	}
	w.seen, w.loaded = after, after
}

// refused has one line for each problem.
func (w *watcher) refused(why string, err error) {
	w.Observe(err)
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, p := range problems {
			w.Logger.Error("configuration refused, the old one stays in force", "why", why, "problem", p.Error())
		}
		return
	}
	w.Logger.Error("configuration refused, the old one stays in force", "why", why, "error", err)
}

// look is what was found under each name; nil where there was nothing.
type look map[string]os.FileInfo

func lookAt(files []string) look {
	l := look{}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			info = nil
		}
		l[f] = info
	}
	return l
}

// same compares files by identity, size and time, so that neither a rename over the old file nor a link that leads
// elsewhere goes unnoticed.
func (l look) same(other look) bool {
	if len(l) != len(other) {
		return false
	}
	for name, a := range l {
		b, ok := other[name]
		switch {
		case !ok || (a == nil) != (b == nil):
			return false
		case a == nil:
		case !os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()):
			return false
		}
	}
	return true
}
