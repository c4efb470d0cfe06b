package gateway

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/export"
)

// openAudit opens the audit log. A gateway that is told to keep one does not serve without it.
func (g *Gateway) openAudit() error {
	g.recorder = audit.Discard{}
	c := g.cfg.Audit
	if !c.Enabled {
		return nil
	}
	key, err := audit.OpenKey(filepath.Join(g.auditHome(), "audit.key"))
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

// exportAudit returns the loop that sends records on, nil where nobody wants them.
func (g *Gateway) exportAudit() (func(context.Context) error, error) {
	if g.auditLog == nil || g.cfg.Audit.OTLPEndpoint == "" {
		return nil, nil
	}
	follower, err := export.NewOTLP(export.Config{
		Endpoint: g.cfg.Audit.OTLPEndpoint, Log: g.auditLog, Cursor: filepath.Join(g.auditHome(), "audit-otlp.cursor"),
		Origin: export.Origin{Version: g.opts.Version, Instance: g.cfg.Sandbox.GatewayID}, Logger: g.log,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the export of the audit log: %w", err)
	}
	g.exporter = follower
	return follower.Run, nil
}

// auditHome holds what belongs to the audit log but not into its folder.
func (g *Gateway) auditHome() string {
	if g.cfg.StateDir != "" {
		return g.cfg.StateDir
	}
	return filepath.Dir(g.cfg.Audit.Dir)
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
