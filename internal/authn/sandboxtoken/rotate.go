package sandboxtoken

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// reloadEvery is the time between two looks at the keys.
	reloadEvery = 10 * time.Second
	// lookEvery bounds how often unknown key ids make us look.
	lookEvery = time.Second
	// rotateTries bounds how often another process may be faster.
	rotateTries = 8
)

// Stable reasons of operations on keys.
const (
	ReasonRotation = "SANDBOX_KEY_ROTATION"
	ReasonRetire   = "SANDBOX_KEY_RETIREMENT"
)

// KeyIDs returns the ids of all keys that verify, the signer's last.
func (i *Issuer) KeyIDs() []string { return i.ring.Load().ids() }

// KeyInfo describes a key in a directory.
type KeyInfo struct {
	// ID is what tokens name it by, File its path.
	ID, File string
	// Since is when the file came to be there.
	Since time.Time
}

// List returns the keys in a directory in the order of their names; the last signs. It changes nothing.
func List(dir string) ([]KeyInfo, error) {
	keys, err := readKeys(dir)
	if err != nil {
		return nil, fmt.Errorf("list sandbox token keys: %w", err)
	}
	out := make([]KeyInfo, 0, len(keys))
	for _, k := range keys {
		info, err := os.Stat(k.file)
		if err != nil {
			return nil, fmt.Errorf("list sandbox token keys: %w", err)
		}
		out = append(out, KeyInfo{ID: k.id, File: k.file, Since: appeared(info)})
	}
	return out, nil
}

// Reload reads the keys again. Keys that have appeared verify from now on, and the last signs; keys that are gone stop
// verifying at once, for tokens that are remembered too. An error leaves everything as it was.
func (i *Issuer) Reload() error {
	i.changing.Lock()
	defer i.changing.Unlock()
	return i.reload()
}

func (i *Issuer) reload() error {
	if i.o.Dir == "" && i.o.SigningKey == "" {
		return nil
	}
	keys, err := readAll(i.o)
	if err != nil {
		return fmt.Errorf("reload sandbox token keys: %w", err)
	}
	if len(keys) == 0 {
		return fmt.Errorf("reload sandbox token keys: no key is left in %s", i.o.Dir)
	}
	return i.use(keys)
}

// use makes keys the current ones.
func (i *Issuer) use(keys []key) error {
	old := i.ring.Load()
	generation := old.generation
	added, removed := difference(keys, old.keys), difference(old.keys, keys)
	if len(removed) > 0 {
		generation++
	}
	next, err := newRing(keys, generation)
	if err != nil {
		return fmt.Errorf("reload sandbox token keys: %w", err)
	}
	signer := next.signer().id
	if len(added) == 0 && len(removed) == 0 && signer == old.signer().id {
		return nil
	}
	i.ring.Store(next)
	if len(removed) > 0 {
		i.cache.Clear()
	}
	i.o.Logger.Info("keys of sandbox tokens changed", "signer", signer, "added", added, "removed", removed, "keys", len(next.verifier))
	return nil
}

// difference returns the ids of keys in a that are not the same in b.
func difference(a, b []key) []string {
	var out []string
	for _, k := range a {
		if !slices.ContainsFunc(b, func(o key) bool { return o.id == k.id && o.private.Equal(k.private) }) {
			out = append(out, k.id)
		}
	}
	return out
}

// Run looks for changes of the keys until ctx ends. It returns nil.
func (i *Issuer) Run(ctx context.Context) error {
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		problem := ""
		if err := i.Reload(); err != nil {
			problem = err.Error()
			if problem != last {
				i.o.Logger.Error("keys of sandbox tokens cannot be read again; the old ones stay", "error", err)
			}
		}
		last = problem
	}
}

// lookAgain reads the keys again, at most once in a while, since a token names a key that we do not know: another
// gateway with the same directory may have rotated. It tells whether it looked.
func (i *Issuer) lookAgain() bool {
	now, last := i.o.Now().UnixNano(), i.looked.Load()
	if now-last < int64(lookEvery) || !i.looked.CompareAndSwap(last, now) {
		return false
	}
	if err := i.Reload(); err != nil {
		// Run tells the operator.
		i.o.Logger.Debug("keys of sandbox tokens cannot be read again", "error", err)
	}
	return true
}

// Rotate makes a new key, which signs from now on, and returns its id and the ids of all keys that verify, the new
// one last. Tokens of older keys stay good until they expire. Errors are faults: FailedPrecondition where the keys are
// not ours to change.
func (i *Issuer) Rotate() (keyID string, verifying []string, err error) {
	i.changing.Lock()
	defer i.changing.Unlock()
	switch {
	case i.o.SigningKey != "":
		return "", nil, fault.New(fault.FailedPrecondition, ReasonRotation, "the signing key is a file that the configuration names").
			WithNext("put the old key into the folder of sandbox keys, so that its tokens stay good, then replace the file")
	case i.o.Dir == "":
		err = i.rotateMemory()
	default:
		err = i.rotateDir()
	}
	if err != nil {
		return "", nil, err
	}
	r := i.ring.Load()
	return r.signer().id, r.ids(), nil
}

func (i *Issuer) rotateMemory() error {
	keys := i.ring.Load().keys
	if len(keys) == maxKeyFiles {
		return errTooMany()
	}
	k, err := newMemoryKey()
	if err == nil {
		err = i.use(append(slices.Clone(keys), k))
	}
	if err != nil {
		return fault.Wrap(err, fault.Internal, ReasonRotation, "no new key could be made")
	}
	return nil
}

func (i *Issuer) rotateDir() error {
	for range rotateTries {
		keys, err := readKeys(i.o.Dir)
		if err != nil {
			return fault.Wrap(err, fault.FailedPrecondition, ReasonRotation, "the keys of sandbox tokens cannot be read").
				WithNext("look into the gateway's log, mend the folder of sandbox keys and rotate again")
		}
		if len(keys) >= maxKeyFiles {
			return errTooMany()
		}
		name := firstKey
		if len(keys) > 0 {
			name = nameAfter(filepath.Base(keys[len(keys)-1].file))
		}
		err = createKey(i.o.Dir, name)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			return fault.Wrap(err, fault.FailedPrecondition, ReasonRotation, "the gateway may not write to the folder of sandbox keys").
				WithNext("add a key file there that sorts last; the gateway finds it by itself")
		case err == nil:
			err = i.reload()
		}
		if err != nil {
			return fault.Wrap(err, fault.Internal, ReasonRotation, "no new key could be made").
				WithNext("look into the gateway's log; the old key still signs")
		}
		return nil
	}
	return fault.New(fault.Aborted, ReasonRotation, "others rotate the keys at the same time").WithNext("try again")
}

func errTooMany() error {
	return fault.New(fault.FailedPrecondition, ReasonRotation, "there are %d keys already", maxKeyFiles).
		WithNext("remove the keys whose tokens have expired from the folder of sandbox keys")
}

// Retire removes the files of keys whose tokens must all be of no use by now: more time than a token's life and its
// recovery has passed since the next key came. It returns their ids. It goes by the present life of tokens, so it has
// to wait after that was shortened. Errors are faults.
func (i *Issuer) Retire() ([]string, error) {
	i.changing.Lock()
	defer i.changing.Unlock()
	switch {
	case i.o.Dir == "":
		return nil, fault.New(fault.FailedPrecondition, ReasonRetire, "the keys are in memory only")
	case i.o.TTL == 0:
		return nil, fault.New(fault.FailedPrecondition, ReasonRetire, "tokens of this gateway never expire").
			WithNext("delete a key's file by hand; its tokens end with it")
	}
	keys, err := readKeys(i.o.Dir)
	if err != nil {
		return nil, fault.Wrap(err, fault.FailedPrecondition, ReasonRetire, "the keys of sandbox tokens cannot be read")
	}
	// Other gateways may have signed with the old key until they looked.
	before := i.o.Now().Add(-i.o.TTL - max(leeway, i.o.Recovery) - leeway - reloadEvery)
	var retired []string
	for n := range len(keys) - 1 {
		info, err := os.Stat(keys[n+1].file)
		if err != nil {
			return retired, fault.Wrap(err, fault.Internal, ReasonRetire, "the keys of sandbox tokens cannot be read")
		}
		if !appeared(info).Before(before) {
			continue
		}
		if err := os.Remove(keys[n].file); err != nil {
			return retired, fault.Wrap(err, fault.FailedPrecondition, ReasonRetire, "a key cannot be removed").
				WithNext("remove it by hand from the folder of sandbox keys")
		}
		i.o.Logger.Info("key of sandbox tokens retired", "key", keys[n].id, "file", keys[n].file)
		retired = append(retired, keys[n].id)
	}
	if err := i.reload(); err != nil {
		return retired, fault.Wrap(err, fault.Internal, ReasonRetire, "the keys of sandbox tokens cannot be read")
	}
	return retired, nil
}
