package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"sallyport.dev/sallyport/internal/fault"
)

// Defaults of Options.
const (
	DefaultMaxBytes = 64 << 20
	DefaultQueue    = 4096
	DefaultMaxWait  = time.Second
)

const (
	// tickInterval is how often the log looks for repeated denials and unsigned records that are due.
	tickInterval = 5 * time.Second
	// gatherTime is how long records that nobody waits for may gather before they are written: a sync costs as much as
	// a call does, and a busy gateway would pay it for each.
	gatherTime = 10 * time.Millisecond
	// signAfter is how long a record stays without a checkpoint.
	signAfter = time.Minute
	// closeTimeout is how long Close goes on trying to write to a disk that fails.
	closeTimeout = 5 * time.Second
)

// Options are what a Log is made of. Dir and Key are required.
type Options struct {
	// Dir holds the log's files and nothing else; it is made if it is not there.
	Dir string
	// Key signs checkpoints; see OpenKey.
	Key ed25519.PrivateKey
	// MaxBytes is the size at which a file is closed and the next begun; 0 means DefaultMaxBytes.
	MaxBytes int64
	// KeepFiles is how many closed files are kept; 0 keeps all.
	KeepFiles int
	// Queue is how many records may wait for the disk; 0 means DefaultQueue.
	Queue int
	// MaxWait is how long Record may wait for a place in the queue, or for the disk with Durable, before it gives up;
	// 0 means DefaultMaxWait.
	MaxWait time.Duration
	// Durable makes Record wait until the record is on disk.
	Durable bool
	// Logger is told of trouble with the disk; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time

	// open replaces the opening of files, in tests of this package.
	open func(path string, flag int) (file, error)
}

// Log is an append-only, hash-chained audit log in a folder. It is safe for concurrent use.
//
// Records are queued and written by one goroutine, which writes and syncs all that wait at once. While the disk does
// not take them callers are slowed; what had to be given up in the end is counted, reported by Err, and recorded as
// "audit.lost" when the disk is back.
type Log struct {
	o     Options
	keyID string
	lock  *flock.Flock
	flood *flood

	mu      sync.Mutex
	pending []Record
	// batch is closed when what is pending now is durable; nil while nobody waits for it.
	batch chan struct{}
	// space is closed when the queue has been emptied; nil while nobody waits for it.
	space  chan struct{}
	closed bool
	lost   uint64
	// lostEver counts what lost does, and is never told off.
	lostEver uint64
	// failing is why the disk does not take what is written; nil if it does.
	failing error

	wake chan struct{}
	stop chan struct{}
	// abandon ends the attempts to write.
	abandon chan struct{}
	done    sync.WaitGroup
	checked chan struct{}

	// index guards what searches read.
	index    sync.RWMutex
	segments []*segment
	durable  uint64
	// grown is closed when durable has grown.
	grown chan struct{}

	w writer
}

// Open opens the log in a folder, or begins one. A last line that a killed process left unfinished is cut off. A log
// whose end is damaged in another way is left as it is: a new file begins with a record that says so. The rest of the
// log is checked in the background; what is wrong there is recorded too.
func Open(o Options) (*Log, error) {
	if o.Dir == "" || len(o.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("open the audit log: a folder and a key are required")
	}
	o.fill()
	public, ok := o.Key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("open the audit log: the key is not an Ed25519 key")
	}
	l := &Log{
		o: o, keyID: KeyID(public), flood: newFlood(), wake: make(chan struct{}, 1), stop: make(chan struct{}),
		abandon: make(chan struct{}), checked: make(chan struct{}), grown: make(chan struct{}),
	}
	l.w.l = l
	if err := l.openDir(); err != nil {
		return nil, err
	}
	broken, err := l.w.begin()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the audit log: %w", err), l.lock.Close())
	}
	for _, b := range broken {
		l.reportBroken(b)
	}
	l.done.Go(l.run)
	l.done.Go(l.check)
	return l, nil
}

func (o *Options) fill() {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	if o.MaxWait <= 0 {
		o.MaxWait = DefaultMaxWait
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.open == nil {
		o.open = openFile
	}
}

func (l *Log) openDir() error {
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the audit log: %w", err)
	}
	l.lock = flock.New(filepath.Join(l.o.Dir, "lock"), flock.SetPermissions(0o600))
	locked, err := l.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the audit log: %w", err)
	}
	if !locked {
		return fmt.Errorf("open the audit log: another process writes to %s; give each gateway a folder of its own", l.o.Dir)
	}
	if l.segments, err = list(l.o.Dir); err != nil {
		return errors.Join(err, l.lock.Close())
	}
	return nil
}

// reportBroken records that something is wrong with the log itself.
func (l *Log) reportBroken(p Problem) {
	l.o.Logger.Error("the audit log was altered or damaged", "file", p.File, "line", p.Line, "problem", p.Text)
	l.Record(Record{
		Actor: Gateway, ActorKind: Gateway, Action: ActionChainBroken, Target: "audit/" + filepath.Base(p.File),
		Verdict: Failed, Reason: "AUDIT_CHAIN_BROKEN",
		Details: map[string]string{"line": strconv.Itoa(p.Line), "problem": p.Text},
	})
}

// Record implements Recorder. It returns when the record is queued, or with Options.Durable when it is on disk. Of
// denials that repeat themselves the first is kept at once and the others are counted; see docs/audit.md.
func (l *Log) Record(r Record) {
	now := l.o.Now()
	clean(&r, now)
	if r.Verdict == Denied && !l.flood.admit(&r, now) {
		return
	}
	l.mu.Lock()
	if (l.closed || len(l.pending) >= l.o.Queue) && !l.awaitSpace() {
		l.lost++
		l.lostEver++
		closed := l.closed
		l.mu.Unlock()
		if closed {
			l.o.Logger.Error("audit record came after the log was closed", "action", r.Action, "verdict", r.Verdict)
		}
		return
	}
	l.pending = append(l.pending, r)
	var batch chan struct{}
	if l.o.Durable {
		batch = l.pendingBatch()
	}
	l.mu.Unlock()
	l.poke()
	if batch != nil {
		l.await(batch)
	}
}

// awaitSpace waits, with the lock released, until the queue has a place; false if there is none in time.
func (l *Log) awaitSpace() bool {
	var timer *time.Timer
	for len(l.pending) >= l.o.Queue || l.closed {
		if l.closed {
			return false
		}
		if l.space == nil {
			l.space = make(chan struct{})
		}
		space := l.space
		if timer == nil {
			timer = time.NewTimer(l.o.MaxWait)
			defer timer.Stop()
		}
		l.mu.Unlock()
		inTime := true
		select {
		case <-space:
		case <-timer.C:
			inTime = false
		}
		l.mu.Lock()
		if !inTime {
			return len(l.pending) < l.o.Queue && !l.closed
		}
	}
	return true
}

// await waits for a batch as long as a caller may be held up.
func (l *Log) await(batch <-chan struct{}) {
	timer := time.NewTimer(l.o.MaxWait)
	defer timer.Stop()
	select {
	case <-batch:
	case <-timer.C:
	case <-l.abandon:
	}
}

func (l *Log) pendingBatch() chan struct{} {
	if l.batch == nil {
		l.batch = make(chan struct{})
	}
	return l.batch
}

func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Flush waits until everything that was recorded before is on disk.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errors.New("the audit log is closed")
	}
	batch := l.pendingBatch()
	l.mu.Unlock()
	l.poke()
	select {
	case <-batch:
		return nil
	case <-l.abandon:
		return errors.New("the audit log was closed before everything was written")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Err tells why records are not being kept, nil if they are; it is made for a probe of readiness.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing == nil {
		return nil
	}
	return fault.Wrap(l.failing, fault.Unavailable, "AUDIT_UNWRITABLE", "the audit log cannot be written").
		WithNext("see the gateway's log, and make room on the disk or repair it")
}

// Checked is closed when the files that were there at the start have been checked.
func (l *Log) Checked() <-chan struct{} { return l.checked }

// Close writes what is left with a last checkpoint and releases the folder. A disk that does not take it within a few
// seconds is given up; the error says so.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	if l.space != nil {
		close(l.space)
		l.space = nil
	}
	l.mu.Unlock()
	close(l.stop)
	timer := time.AfterFunc(closeTimeout, func() { close(l.abandon) })
	l.done.Wait()
	if timer.Stop() {
		close(l.abandon)
	}
	return errors.Join(l.w.err, l.w.close(), l.lock.Close())
}

// run is the writer's goroutine.
func (l *Log) run() {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	var repeated []Record
	for stopping := false; !stopping; {
		due := false
		select {
		case <-l.wake:
			l.gather()
		case <-ticker.C:
			due = true
		case <-l.stop:
			due, stopping = true, true
		}
		if due {
			repeated = l.flood.due(repeated[:0], l.o.Now(), stopping)
		}
		if !l.cycle(repeated, stopping) {
			l.mu.Lock()
			rest := uint64(len(l.pending)) + l.lost
			l.mu.Unlock()
			if rest > 0 {
				l.w.err = fmt.Errorf("%w (and %d records after them)", l.w.err, rest)
			}
			return
		}
		repeated = repeated[:0]
	}
}

// gather lets records come together, unless somebody waits for them or the queue fills up.
func (l *Log) gather() {
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for {
		l.mu.Lock()
		urgent := l.batch != nil || l.space != nil || len(l.pending) >= l.o.Queue/2
		l.mu.Unlock()
		if urgent {
			return
		}
		select {
		case <-l.wake:
		case <-timer.C:
			return
		case <-l.stop:
			return
		}
	}
}

// cycle writes what is pending, and more; false when it was given up.
func (l *Log) cycle(more []Record, stopping bool) bool {
	l.mu.Lock()
	records, batch, lost := l.pending, l.batch, l.lost
	l.pending, l.batch, l.lost = l.w.spare[:0], nil, 0
	if l.space != nil {
		close(l.space)
		l.space = nil
	}
	l.mu.Unlock()
	records = append(records, more...)
	if lost > 0 {
		records = append(records, Record{
			Time: l.o.Now().UTC().Round(0), Actor: Gateway, ActorKind: Gateway, Action: ActionLost, Verdict: Failed,
			Reason: "AUDIT_QUEUE_FULL", Details: map[string]string{"records": strconv.FormatUint(lost, 10)},
		})
	}
	ok := l.w.write(records, stopping)
	if ok && batch != nil {
		close(batch)
	}
	clear(records)
	l.w.spare = records[:0]
	if cap(l.w.spare) > 2*l.o.Queue {
		l.w.spare = nil
	}
	return ok
}

func (l *Log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = err
}

var _ Recorder = (*Log)(nil)
