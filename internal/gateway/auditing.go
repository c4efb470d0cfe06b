package gateway

import (
	"fmt"
	"path/filepath"
	"time"

	"sallyport.dev/sallyport/internal/audit"
)

// openAudit opens the audit log. A gateway that is told to keep one does not serve without it.
func (g *Gateway) openAudit() error {
	g.recorder = audit.Discard{}
	c := g.cfg.Audit
	if !c.Enabled {
		return nil
	}
	dir := g.cfg.StateDir
	if dir == "" {
		dir = filepath.Dir(c.Dir)
	}
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		return fmt.Errorf("open the key of the audit log: %w", err)
	}
	g.auditLog, err = audit.Open(audit.Options{
		Dir: c.Dir, Key: key, MaxBytes: c.MaxBytes, KeepFiles: c.KeepFiles, Logger: g.log,
	})
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	g.recorder = g.auditLog
	return nil
}

// note records what the gateway does by itself.
func (g *Gateway) note(action, target string, details map[string]string) {
	g.recorder.Record(audit.Record{
		Time: time.Now(), Actor: audit.Gateway, ActorKind: audit.Gateway, Action: action, Target: target,
		Verdict: audit.Allowed, Details: details,
	})
}

// closeAudit writes the last record and what is left.
func (g *Gateway) closeAudit() {
	if g.auditLog == nil {
		return
	}
	if err := g.auditLog.Close(); err != nil {
		g.log.Error("close the audit log", "error", err)
	}
	g.auditLog = nil
}
