// Package nodump keeps a process's memory, which holds secrets, out of core files and away from debuggers of the same
// user. It knows nothing of what the secrets are.
package nodump
