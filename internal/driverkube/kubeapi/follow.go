package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Following: how many objects a page of a list has, how long a watch lasts before it is opened again where it was,
// and the pauses between attempts while the API does not answer.
const (
	pageSize     = 250
	watchSeconds = 300
	firstPause   = 100 * time.Millisecond
	longestPause = 15 * time.Second
)

// Object is what following needs of an object: where it is in the order of changes.
type Object interface {
	// Version returns metadata.resourceVersion.
	Version() string
}

// Handler receives objects, one call at a time. Each list is an epoch of its own: whatever was not put in the
// newest epoch when Listed tells its end has gone while nobody watched.
type Handler[T Object] interface {
	// Put gets an object as it is now. It must not keep what it does not copy.
	Put(object T, epoch uint64)
	// Gone gets the last state of an object that was removed.
	Gone(object T)
	// Listed tells that every object was put with this epoch.
	Listed(epoch uint64)
	// Watching tells that changes are followed; Failed why they cannot be at the moment.
	Watching()
	Failed(err error)
}

// Query is what to follow.
type Query struct {
	// Resource is asked for at each list, so that it may change its version; an error is reported and retried.
	Resource func(context.Context) (Resource, error)
	// Namespace is empty for all.
	Namespace string
	// Labels and Fields are selectors of the API; empty for none.
	Labels string
	Fields string
}

// Follow keeps handler informed until ctx ends: a complete list, then each change, and a list again where the API
// has forgotten what happened in between. It waits ever longer while the API does not answer.
func Follow[T Object](ctx context.Context, c *Client, q Query, handler Handler[T]) {
	f := &follower[T]{client: c, query: q, handler: handler}
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := f.listAndWatch(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			handler.Failed(err)
		}
		if time.Since(began) > longestPause {
			pause = firstPause
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // Jitter needs no secrecy.
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(pause*2, longestPause)
	}
}

type follower[T Object] struct {
	client  *Client
	query   Query
	handler Handler[T]
	epoch   uint64
}

// errExpired tells that the API no longer knows the place in the order of changes where a watch should go on.
var errExpired = errors.New("watch expired")

// listAndWatch lists once and follows changes until they are lost. It returns nil where only a new list is needed.
func (f *follower[T]) listAndWatch(ctx context.Context) error {
	resource, err := f.query.Resource(ctx)
	if err != nil {
		return err
	}
	path := resource.path(f.query.Namespace, "")
	version, err := f.list(ctx, path)
	if err != nil {
		return err
	}
	misses := 0
	for {
		began := time.Now()
		next, err := f.watch(ctx, path, version)
		switch {
		case ctx.Err() != nil || errors.Is(err, errExpired):
			return nil //nolint:nilerr // the caller looks at ctx, and lists anew
		case next != version || time.Since(began) > time.Second:
			misses = 0
		}
		if now, err := f.query.Resource(ctx); err == nil && now != resource {
			// Another version is served now: everything is read anew in it.
			return nil
		}
		if version = next; err != nil {
			// A short break is bridged from where the watch was; a longer one is told.
			if misses++; misses > 3 || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
				return err
			}
			f.handler.Failed(err)
			timer := time.NewTimer(firstPause << misses)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
		}
	}
}

func (f *follower[T]) params() url.Values {
	params := url.Values{}
	if f.query.Labels != "" {
		params.Set("labelSelector", f.query.Labels)
	}
	if f.query.Fields != "" {
		params.Set("fieldSelector", f.query.Fields)
	}
	return params
}

// list puts every object, page by page, and returns where a watch goes on.
func (f *follower[T]) list(ctx context.Context, path string) (version string, err error) {
	// Lists of earlier followers of the same handler count too.
	f.epoch = max(f.epoch+1, uint64(time.Now().UnixNano()))
	params := f.params()
	params.Set("limit", strconv.Itoa(pageSize))
	for {
		page, err := f.page(ctx, path, params)
		if err != nil {
			return "", err
		}
		if page.Continue == "" {
			f.handler.Listed(f.epoch)
			return page.ResourceVersion, nil
		}
		params.Set("continue", page.Continue)
	}
}

func (f *follower[T]) page(ctx context.Context, path string, params url.Values) (metav1.ListMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, f.client.timeout)
	defer cancel()
	body, err := f.client.open(ctx, path, params)
	if err != nil {
		return metav1.ListMeta{}, err
	}
	defer body.Close()
	meta, err := decodeList(body, func(object T) { f.handler.Put(object, f.epoch) })
	if err != nil {
		return meta, fmt.Errorf("read list of %s: %w", path, err)
	}
	return meta, nil
}

// decodeList reads a list one item at a time, so that no page is in memory as a whole.
func decodeList[T Object](r io.Reader, put func(T)) (metav1.ListMeta, error) {
	var meta metav1.ListMeta
	d := json.NewDecoder(r)
	if err := expect(d, json.Delim('{')); err != nil {
		return meta, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return meta, err
		}
		switch key {
		case "metadata":
			if err := d.Decode(&meta); err != nil {
				return meta, err
			}
		case "items":
			if err := decodeItems(d, put); err != nil {
				return meta, err
			}
		default:
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return meta, err
			}
		}
	}
	return meta, expect(d, json.Delim('}'))
}

func decodeItems[T Object](d *json.Decoder, put func(T)) error {
	begin, err := d.Token()
	if err != nil || begin == nil {
		return err // items: null is an empty list
	}
	if begin != json.Delim('[') {
		return fmt.Errorf("items are %v, not a list", begin)
	}
	for d.More() {
		var object T
		if err := d.Decode(&object); err != nil {
			return err
		}
		put(object)
	}
	return expect(d, json.Delim(']'))
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("found %v, want %v", got, want)
	}
	return err
}

// watch follows changes from a version on and returns where the next watch goes on. A watch that ends in order has
// no error.
func (f *follower[T]) watch(ctx context.Context, path, version string) (string, error) {
	params := f.params()
	params.Set("watch", "true")
	params.Set("resourceVersion", version)
	params.Set("allowWatchBookmarks", "true")
	seconds := watchSeconds + rand.IntN(watchSeconds) //nolint:gosec // Jitter needs no secrecy.
	params.Set("timeoutSeconds", strconv.Itoa(seconds))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+f.client.timeout)
	defer cancel()
	body, err := f.client.open(ctx, path, params)
	if err != nil {
		return version, expired(err)
	}
	defer body.Close()
	f.handler.Watching()
	d := json.NewDecoder(body)
	var event struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	for {
		event.Type, event.Object = "", event.Object[:0]
		if err := d.Decode(&event); err != nil {
			if errors.Is(err, io.EOF) {
				return version, nil
			}
			return version, fmt.Errorf("read changes of %s: %w", path, err)
		}
		if event.Type == "ERROR" {
			var status metav1.Status
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return version, fmt.Errorf("read changes of %s: %w", path, err)
			}
			return version, expired(&apierrors.StatusError{ErrStatus: status})
		}
		var object T
		if err := json.Unmarshal(event.Object, &object); err != nil {
			return version, fmt.Errorf("read changes of %s: %w", path, err)
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			f.handler.Put(object, f.epoch)
		case "DELETED":
			f.handler.Gone(object)
		}
		if v := object.Version(); v != "" {
			version = v
		}
	}
}

func expired(err error) error {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return errExpired
	}
	if s, ok := errors.AsType[*apierrors.StatusError](err); ok && s.ErrStatus.Code == http.StatusGone {
		return errExpired
	}
	return err
}

// List calls put for every object once and returns when all were put.
func List[T Object](ctx context.Context, c *Client, r Resource, namespace, labels string, put func(T)) error {
	params := url.Values{}
	if labels != "" {
		params.Set("labelSelector", labels)
	}
	params.Set("limit", strconv.Itoa(pageSize))
	for {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		body, err := c.open(ctx, r.path(namespace, ""), params)
		if err != nil {
			cancel()
			return err
		}
		meta, err := decodeList(body, put)
		body.Close()
		cancel()
		if err != nil {
			return fmt.Errorf("read list of %s: %w", r, err)
		}
		if meta.Continue == "" {
			return nil
		}
		params.Set("continue", meta.Continue)
	}
}
