package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/pause"
	"sallyport.dev/sallyport/internal/privatefile"
)

const (
	// batchRecords is how many records one request holds at most.
	batchRecords = 512
	// linger is how long the follower waits for more records once there is one.
	linger   = 500 * time.Millisecond
	minPause = time.Second
	maxPause = time.Minute
)

// Log is what a follower reads.
type Log interface {
	Search(ctx context.Context, f audit.Filter) (audit.Page, error)
	Wait(ctx context.Context, after uint64) error
	Last() uint64
}

var _ Log = (*audit.Log)(nil)

// Config is what an OTLP follower is made of. Endpoint, Log and Cursor are required.
type Config struct {
	// Endpoint is the base URL of the receiver; see NewSender.
	Endpoint string
	Headers  map[string]string
	Origin   Origin
	Log      Log
	// Cursor is a file that remembers what was sent.
	Cursor string
	// Client is used for requests; nil is one of its own.
	Client *http.Client
	// Logger is told of trouble; nil discards.
	Logger *slog.Logger
}

// OTLP follows a log and sends each durable record at least once, in order. What it has sent is remembered on disk, so
// that a receiver that is away, or a restart, loses nothing as long as the log still holds it. Memory is bounded by one
// request; the log itself is the queue.
type OTLP struct {
	c      Config
	sender *Sender
	after  uint64
	sent   atomic.Uint64 // after, for those who ask meanwhile
	state  atomic.Pointer[error]
}

// NewOTLP returns a follower. Run does the work.
func NewOTLP(c Config) (*OTLP, error) {
	if c.Log == nil || c.Cursor == "" {
		return nil, errors.New("export the audit log: a log and a file for the cursor are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	sender, err := NewSender(c.Endpoint, c.Headers, c.Origin, c.Client)
	if err != nil {
		return nil, err
	}
	o := &OTLP{c: c, sender: sender}
	raw, err := os.ReadFile(c.Cursor)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("export the audit log: %w", err)
	default:
		if o.after, err = strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err != nil {
			return nil, fmt.Errorf("export the audit log: %s holds no number; remove it to send everything again", c.Cursor)
		}
	}
	o.sent.Store(o.after)
	return o, nil
}

// Err is why records are not being sent right now, nil if they are.
func (o *OTLP) Err() error {
	if err := o.state.Load(); err != nil {
		return *err
	}
	return nil
}

// Sent is the sequence of the last record that the receiver has taken.
func (o *OTLP) Sent() uint64 { return o.sent.Load() }

// Run sends until ctx ends, and returns nil then.
func (o *OTLP) Run(ctx context.Context) error {
	defer o.sender.Close()
	if last := o.c.Log.Last(); o.after > last {
		o.c.Logger.Warn("the audit log is another one than was exported before; sending all of it", "cursor", o.after, "last", last)
		o.after = 0
		o.sent.Store(0)
	}
	delay := minPause
	for ctx.Err() == nil {
		err := o.step(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			if o.state.Swap(nil) != nil {
				o.c.Logger.Info("audit records are sent again")
			}
			delay = minPause
			continue
		}
		if o.state.Swap(&err) == nil {
			o.c.Logger.Warn("audit records cannot be sent; trying again", "error", err)
		}
		wait := delay/2 + rand.N(delay) //nolint:gosec // It spreads attempts; nobody gains by guessing it.
		if e, ok := errors.AsType[*SendError](err); ok {
			wait = max(wait, e.RetryAfter)
		}
		if !pause.For(ctx, wait) {
			break
		}
		delay = min(2*delay, maxPause)
	}
	return nil
}

// step sends the next records there are.
func (o *OTLP) step(ctx context.Context) error {
	if err := o.c.Log.Wait(ctx, o.after); err != nil {
		return err
	}
	if !pause.For(ctx, linger) {
		return nil
	}
	last := o.c.Log.Last()
	page, err := o.c.Log.Search(ctx, audit.Filter{After: o.after, Limit: batchRecords})
	if err != nil {
		return err
	}
	if len(page.Records) == 0 {
		// What Wait saw is gone, or cannot be read; the log's own check reports that.
		if page.Next > 0 {
			last = page.Next
		}
		return o.remember(last)
	}
	if first := page.Records[0].Sequence; o.after > 0 && first > o.after+1 {
		o.c.Logger.Warn("audit records were removed before they were sent", "records", first-o.after-1)
	}
	if err := o.send(ctx, page.Records); err != nil {
		return err
	}
	return o.remember(page.Records[len(page.Records)-1].Sequence)
}

// send sends records. Where the receiver refuses them for what they are, it halves them until the one that is refused
// is alone, and passes over that.
func (o *OTLP) send(ctx context.Context, records []audit.Record) error {
	rejected, err := o.sender.Send(ctx, records)
	if err == nil {
		if rejected > 0 {
			o.c.Logger.Error("the receiver rejected audit records", "rejected", rejected, "of", len(records),
				"first", records[0].Sequence)
		}
		return nil
	}
	if e, ok := errors.AsType[*SendError](err); !ok || !e.Refused {
		return err
	}
	if len(records) == 1 {
		o.c.Logger.Error("the receiver refuses an audit record; passing over it", "sequence", records[0].Sequence, "error", err)
		return nil
	}
	half := len(records) / 2
	if err := o.send(ctx, records[:half]); err != nil {
		return err
	}
	return o.send(ctx, records[half:])
}

// remember moves the cursor.
func (o *OTLP) remember(sequence uint64) error {
	o.after = sequence
	o.sent.Store(sequence)
	err := privatefile.Replace(o.c.Cursor, []byte(strconv.FormatUint(sequence, 10)+"\n"))
	if err != nil {
		return fmt.Errorf("remember what was exported: %w", err)
	}
	return nil
}
