package revocation

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// Sizes of a page of List.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Revoke refuses an identity from now on, ends its open streams here at once and on other replicas when they hear of
// it, and returns what is stored and how many streams ended here. Revoking what is revoked already replaces reason,
// expiry and moment. Administrators may revoke sessions and earlier credentials of their own, but not their identity
// for good: nobody might be left to restore it.
func (r *Registry) Revoke(ctx context.Context, by *principal.Principal, want Revocation) (Revocation, int, error) {
	now := r.now()
	if err := want.validate(now); err != nil {
		return Revocation{}, 0, err
	}
	t, err := want.target()
	if err != nil {
		return Revocation{}, 0, err
	}
	if t.sort == ofUser && !want.IssuedBefore && t.covers(by) {
		return Revocation{}, 0, fault.New(fault.FailedPrecondition, ReasonSelf, "you would lock yourself out").
			WithNext("revoke only credentials issued before now, or a session; or let another administrator do it")
	}
	want.Created, want.CreatedBy = now.Truncate(time.Millisecond), by.Actor()
	r.mu.Lock()
	defer r.mu.Unlock()
	stored, err := r.put(ctx, t, want)
	if err != nil {
		return Revocation{}, 0, err
	}
	ended, err := r.apply(stored)
	return stored, ended, err
}

// put stores a revocation in the place of the one there is for its target. The caller holds mu.
func (r *Registry) put(ctx context.Context, t target, want Revocation) (Revocation, error) {
	payload, err := want.encode()
	if err != nil {
		return Revocation{}, fault.Wrap(err, fault.Internal, "INTERNAL", "the revocation cannot be stored")
	}
	var op store.Op
	switch old, err := r.store.ByName(Kind, "", t.key()); {
	case err == nil:
		o := old.Edit()
		o.Payload = payload
		op = store.Put(o, old.Version)
	case errors.Is(err, store.ErrNotFound):
		if err := r.makeRoom(ctx); err != nil {
			return Revocation{}, err
		}
		op = store.Create(&store.Object{
			Kind: Kind, ID: uuid.NewString(), Name: t.key(), Owner: want.CreatedBy, Payload: payload,
		})
	default:
		return Revocation{}, storeFault(err)
	}
	written, err := r.store.Write(ctx, op)
	if err != nil {
		return Revocation{}, storeFault(err)
	}
	return decode(written[0])
}

// makeRoom refuses a new revocation when there are as many as there may be.
func (r *Registry) makeRoom(ctx context.Context) error {
	if r.store.Count(Kind) < r.most {
		return nil
	}
	if err := r.prune(ctx); err != nil {
		return storeFault(err)
	}
	if r.store.Count(Kind) < r.most {
		return nil
	}
	return fault.New(fault.ResourceExhausted, ReasonTooMany, "there are %d revocations already, which is the most", r.most).
		WithNext("restore what need not be refused any more, and give new ones an expiry")
}

// Restore takes a revocation back. NotFound if there is none.
func (r *Registry) Restore(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, err := r.store.Get(Kind, id)
	if err == nil {
		_, err = r.store.Write(ctx, store.Delete(Kind, id, 0))
	}
	if errors.Is(err, store.ErrNotFound) {
		return fault.New(fault.NotFound, ReasonNotFound, "there is no such revocation").WithNext("list the revocations")
	}
	if err != nil {
		return storeFault(err)
	}
	gone, err := decode(o)
	if err != nil {
		return err
	}
	_, err = r.apply(gone)
	return err
}

// List returns a page of the revocations that are not over, newest first, and the token of the next page, empty on the
// last. A size of 0 means DefaultPage. What is revoked while somebody turns pages may be missed, nothing is shown twice.
func (r *Registry) List(size int, token string) ([]Revocation, string, error) {
	if size < 0 || size > MaxPage {
		return nil, "", fault.New(fault.InvalidArgument, "PAGE_SIZE", "page_size must be between 0 and %d, got %d", MaxPage, size).
			WithNext("ask for fewer at a time")
	}
	if size == 0 {
		size = DefaultPage
	}
	after, err := parsePage(token)
	if err != nil {
		return nil, "", err
	}
	now := r.now()
	var all []Revocation
	for _, o := range r.store.List(Kind, store.Query{AllWorkspaces: true}) {
		stored, err := decode(o)
		if err != nil {
			return nil, "", err
		}
		if !stored.over(now) && (token == "" || newestFirst(after, stored) < 0) {
			all = append(all, stored)
		}
	}
	slices.SortFunc(all, newestFirst)
	if len(all) <= size {
		return all, "", nil
	}
	return all[:size], pageAfter(all[size-1]), nil
}

func newestFirst(a, b Revocation) int {
	return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
}

// pageAfter is the token of the page that begins after r; parsePage reads it.
func pageAfter(r Revocation) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(r.Created.UnixMilli(), 10) + "/" + r.ID))
}

func parsePage(token string) (Revocation, error) {
	if token == "" {
		return Revocation{}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	ms, id, ok := strings.Cut(string(raw), "/")
	created, numErr := strconv.ParseInt(ms, 10, 64)
	if err != nil || !ok || numErr != nil {
		return Revocation{}, fault.New(fault.InvalidArgument, ReasonPageToken, "page_token is none that a list has handed out").
			WithNext("begin with the first page")
	}
	return Revocation{ID: id, Created: time.UnixMilli(created)}, nil
}

// prune removes revocations that are over. What somebody prolongs at the same moment stays.
func (r *Registry) prune(ctx context.Context) error {
	now := r.now()
	var over []store.Op
	for _, o := range r.store.List(Kind, store.Query{AllWorkspaces: true}) {
		if stored, err := decode(o); err == nil && stored.over(now) {
			over = append(over, store.Delete(Kind, o.ID, o.Version))
		}
	}
	for batch := range slices.Chunk(over, pruneBatch) {
		if _, err := r.store.Write(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}

// storeFault words what the store returned.
func storeFault(err error) error {
	return storefault.Of(err, fault.New(fault.Aborted, "CONCURRENT_MODIFICATION", "failed due to concurrent modification").
		WithNext("look at the list of revocations and retry"), store.ErrExists, store.ErrNotFound)
}
