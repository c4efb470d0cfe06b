package store

import "context"

// Backend is a database that holds the rows. It is driven by one goroutine at a time, except for Ping.
type Backend interface {
	// Load calls add once for every stored object, in any order, and returns the highest revision the database
	// ever committed. The objects are the store's from then on. It ends early with add's error.
	Load(ctx context.Context, add func(*Object) error) (revision uint64, err error)

	// Apply commits a batch of transactions with one sync to disk and returns one result for each, in order: nil
	// when it is durable, or an error wrapping ErrExists, ErrNotFound or ErrConflict when its condition did not
	// hold and none of its rows changed. A transaction that fails leaves its neighbours alone. The revision is
	// stored as the highest one used, whatever the results. An error as second value says that the batch as a
	// whole was not committed.
	Apply(ctx context.Context, revision uint64, batch []Tx) (results []error, err error)

	// Ping answers whether the database can be read now. It may be called at any time before Close.
	Ping(ctx context.Context) error

	// Close releases the database. Nothing else is called after it.
	Close() error
}

// Tx is one transaction: its rows take effect in order, all or none.
type Tx struct{ Rows []Row }

// Verb is what a row asks for.
type Verb uint8

// The three kinds of row.
const (
	// VerbCreate inserts Object; neither its id nor its name may be there.
	VerbCreate Verb = iota + 1
	// VerbPut replaces the object with Object's id and kind, whose version must be Expect.
	VerbPut
	// VerbDelete removes the object with Object's id and kind, whose version must be Expect.
	VerbDelete
)

// Row is one change of one object, complete: the backend stores the fields as they are.
type Row struct {
	Verb   Verb
	Object *Object
	// Expect is the stored version that a put or a delete demands; it is never 0 there.
	Expect uint64
}
