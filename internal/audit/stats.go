package audit

// Stats is how the log fares, for metrics.
type Stats struct {
	// Records is the sequence of the last record on disk.
	Records uint64
	// Lost counts the records that were given up since the log was opened.
	Lost uint64
	// Waiting are the records that wait for the disk right now.
	Waiting int
	// Failing tells that the disk does not take what is written.
	Failing bool
}

// Stats returns how the log fares. It may be called after Close.
func (l *Log) Stats() Stats {
	records := l.Last()
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Records: records, Lost: l.lostEver, Waiting: len(l.pending), Failing: l.failing != nil}
}
