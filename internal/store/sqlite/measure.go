package sqlite

import (
	"os"

	"sallyport.dev/sallyport/internal/store"
)

var _ store.Measured = (*DB)(nil)

// Measure implements store.Measured: the sizes of the file and of its log. A database in memory has none.
func (d *DB) Measure() store.Measure {
	m := store.Measure{Connections: 1, MaxConnections: 1, InUse: 1 - len(d.turn)}
	if d.path == "" {
		return m
	}
	m.DataBytes, m.LogBytes = size(d.path), size(d.path+"-wal")
	return m
}

// size is that of a file; one that is not there has none.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
