package gateway

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/gateway/config"
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

// Apply puts the settings of next that may change while the gateway runs in force, all or none of them, and records
// what changed. Those that need a restart stay as they are.
func (g *Gateway) Apply(old, next *config.Config) error {
	authorizer, err := authz.New(g.identity.rules.Table(), policyOf(next))
	if err != nil {
		return fmt.Errorf("set up authorization: %w", err)
	}
	if err := g.identity.limiter.Reconfigure(ratesOf(next.Limits)); err != nil {
		return err
	}
	if err := g.identity.issuers.Replace(issuersOf(next)); err != nil {
		return errors.Join(err, g.identity.limiter.Reconfigure(ratesOf(old.Limits)))
	}
	g.identity.rules.Store(authorizer)
	for _, c := range config.Diff(old, next) {
		effect := "now"
		if !c.Reloadable {
			effect = "restart"
		}
		g.note(audit.ActionConfigReload, c.Key, map[string]string{"old": c.Old, "new": c.New, "effect": effect})
	}
	return nil
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
