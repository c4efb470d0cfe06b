package config

// Change is one setting that differs between two configurations.
type Change struct {
	// Key is the file's key below "openshell.", or the flag's name where the file has none.
	Key string
	// Old and New are written as in TOML; empty where the key is not there at all. Secrets are masked.
	Old, New string
	// Reloadable changes take effect at once; the others when the gateway starts again.
	Reloadable bool
}

// Diff lists what differs, in the order of the settings. Two values of a secret differ though both are masked.
func Diff(old, next *Config) []Change {
	var changes []Change
	before := map[string]inForce{}
	for _, e := range old.entries {
		before[e.Key] = e
	}
	seen := map[string]bool{}
	for _, e := range next.entries {
		seen[e.Key] = true
		b, ok := before[e.Key]
		switch {
		case !ok:
			changes = append(changes, Change{Key: e.Key, New: literal(e.Value.Value), Reloadable: e.Reloadable})
		case b.raw != e.raw:
			changes = append(changes, Change{Key: e.Key, Old: literal(b.Value.Value), New: literal(e.Value.Value), Reloadable: e.Reloadable})
		}
	}
	for _, e := range old.entries {
		if !seen[e.Key] {
			changes = append(changes, Change{Key: e.Key, Old: literal(e.Value.Value), Reloadable: e.Reloadable})
		}
	}
	return changes
}
