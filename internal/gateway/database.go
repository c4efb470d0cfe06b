package gateway

import (
	"context"
	"fmt"
	"log/slog"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// openBackend opens the database that the settings name. It waits for an earlier owner of it to end, for as long as the
// settings allow.
func openBackend(ctx context.Context, cfg *config.Config, log *slog.Logger) (store.Backend, error) {
	if !config.IsPostgres(cfg.DatabaseURL) {
		db, err := sqlite.Open(ctx, cfg.DatabaseURL)
		if err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
		return db, nil
	}
	opts := postgres.Options{PasswordFile: cfg.Database.PasswordFile, LeaseWait: cfg.Database.LeaseWait, Logger: log}
	if opts.LeaseWait == 0 {
		opts.LeaseWait = -1 // Not at all.
	}
	db, err := postgres.Open(ctx, cfg.DatabaseURL, opts)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return db, nil
}
