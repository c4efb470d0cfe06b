package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/internal/store"
)

// resealing bounds the providers that are encrypted anew at the same time: enough for the store to commit them together.
const resealing = 32

// checkKeys reports stored literals whose key was not given. Nothing is written. A single literal that does not open
// although its key is there is damaged, and whoever asks for it is told.
func (s *Service) checkKeys() error {
	lost := map[string]int{}
	unnamedOpens := false
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
		for key, row := range literals(o) {
			_, _, err := s.sealer.open(o.ID, o.Workspace, key, row)
			switch {
			case err == nil && row.Key == "":
				unnamedOpens = true
			case err != nil && !s.sealer.has(row.Key):
				lost[row.Key]++
			}
		}
	}
	if unnamedOpens {
		// Earlier versions had one key: what does not open is damaged.
		delete(lost, "")
	}
	if len(lost) == 0 {
		return nil
	}
	credentials, names, given := 0, []string{}, []string{}
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		credentials += lost[id]
		names = append(names, nameOf(id))
	}
	for _, k := range s.sealer.keys {
		given = append(given, k.id)
	}
	return fmt.Errorf("%d stored credentials are encrypted with %s, and the gateway was given %s; nothing was changed; "+
		"give it the missing key too, behind the one that is to encrypt, or if it is lost, start with --accept-lost-credentials and set the credentials again",
		credentials, strings.Join(names, ", "), strings.Join(given, ", "))
}

func nameOf(id string) string {
	if id == "" {
		return "a key without a name"
	}
	return "the key " + id
}

// literals are the encrypted credentials of a provider. One that cannot be read has none: whoever asks for it is told.
func literals(o *store.Object) map[string]secretRow {
	r, err := decode(o)
	if err != nil {
		return nil
	}
	out := map[string]secretRow{}
	for key, row := range r.Credentials {
		if row.Reference == "" {
			out[key] = row
		}
	}
	return out
}

// Reseal encrypts with the key in force what was encrypted with an older one, and returns how many providers that were.
// Afterwards the older keys are needed no more, but for backups, which the log says. It may run while the gateway serves,
// and be repeated.
func (s *Service) Reseal(ctx context.Context) (int, error) {
	if len(s.sealer.keys) == 1 {
		return 0, nil
	}
	var group errgroup.Group
	group.SetLimit(resealing)
	var done atomic.Int64
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
		if len(s.outdated(o)) == 0 {
			continue
		}
		group.Go(func() error {
			_, err := s.store.Update(ctx, Kind, o.ID, s.reseal)
			switch {
			case errors.Is(err, store.ErrNotFound):
				return nil
			case err != nil:
				return fmt.Errorf("encrypt the credentials of provider %s with another key: %w", o.Name, err)
			}
			done.Add(1)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return int(done.Load()), err
	}
	s.log.Info("all credentials are encrypted with the key in force; older keys are needed no more", "key", s.sealer.active.id, "changed_providers", done.Load())
	return int(done.Load()), nil
}

// outdated returns the values that are encrypted with an older key.
func (s *Service) outdated(o *store.Object) map[string]string {
	out := map[string]string{}
	for key, row := range literals(o) {
		if value, with, err := s.sealer.open(o.ID, o.Workspace, key, row); err == nil && with != s.sealer.active {
			out[key] = value
		}
	}
	return out
}

// reseal changes a copy of a stored provider.
func (s *Service) reseal(o *store.Object) error {
	values := s.outdated(o)
	if len(values) == 0 {
		return store.ErrNoChange
	}
	old, err := decode(o)
	if err != nil {
		return err
	}
	r := old.clone()
	for key, value := range values {
		r.Credentials[key] = s.sealer.seal(o.ID, o.Workspace, key, value)
	}
	o.Payload, err = json.Marshal(r)
	return err
}
