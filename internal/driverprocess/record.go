//go:build linux

package driverprocess

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What a sandbox is meant to be.
const (
	wantRunning = "running"
	wantStopped = "stopped"
	wantDeleted = "deleted"
)

// record is sandbox.json: what was asked for, stored before anything is done about it.
type record struct {
	Version   int    `json:"version"`
	ID        string `json:"id"`
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	Workspace string `json:"workspace,omitempty"`
	// Key marks the sandbox's processes; it is random, so that no other driver has the same.
	Key         string            `json:"key"`
	Want        string            `json:"want"`
	LogLevel    string            `json:"log_level,omitempty"`
	TemplateEnv map[string]string `json:"template_env,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	Command     []string          `json:"command,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	Token       bool              `json:"token,omitempty"`
	Limits      limits            `json:"limits"`
	// UserRange is the index of the range of user ids that belongs to the sandbox.
	UserRange int `json:"user_range"`
	// Groups are the control groups that may exist for the sandbox.
	Groups []string `json:"groups,omitempty"`
}

// mark is the environment setting by which the sandbox's processes are known.
func (r *record) mark() string { return "SALLYPORT_SANDBOX_KEY=" + r.Key }

// processRecord is process.json: the sandbox's first process. It need not survive the machine, only the driver.
type processRecord struct {
	PID       int       `json:"pid"`
	Start     uint64    `json:"start"`
	Boot      string    `json:"boot"`
	Isolation isolation `json:"isolation"`
	// Groups says what the control groups enforce and why not more.
	Groups string `json:"groups"`
}

const (
	recordFile  = "sandbox.json"
	processFile = "process.json"
)

func (r *record) save(dir string) error { return writeJSON(filepath.Join(dir, recordFile), r, true) }

func loadRecord(dir string) (record, error) {
	var r record
	err := readJSON(filepath.Join(dir, recordFile), &r)
	if err == nil && (r.Version != 1 || r.ID != filepath.Base(dir) || len(r.Key) != 32) {
		err = fmt.Errorf("read %s: not a sandbox record of this version", recordFile)
	}
	return r, err
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse %s: %w", filepath.Base(path), err)
	}
	return nil
}

// writeJSON replaces path as a whole; durable also waits until it would survive a loss of power.
func writeJSON(path string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, b, 0o600, durable)
}

func writeFile(path string, b []byte, mode fs.FileMode, durable bool) (err error) {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("replace %s: %w", filepath.Base(path), err)
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory to store: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("store directory: %w", err)
	}
	return nil
}

// removeTree removes a sandbox's files, also below directories that it closed to itself.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	walkErr := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a directory about to be removed
				return err
			}
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil // opened just now: the removal below goes in
		}
		return err
	})
	return errors.Join(os.RemoveAll(dir), walkErr)
}
