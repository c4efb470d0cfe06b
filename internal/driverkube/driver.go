package driverkube

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/mirror"
	"sallyport.dev/sallyport/internal/fault"
)

// firstImageVolume is the minor version of Kubernetes 1 whose pods can mount an image.
const firstImageVolume = 35

// verifyDelay is how long after a list that missed a sandbox the driver asks for that very sandbox.
const verifyDelay = 2 * time.Second

// Driver runs the sandboxes of one gateway in one cluster. Open makes one.
type Driver struct {
	opts     Options
	logger   *slog.Logger
	api      *kubeapi.Client
	versions *kubeapi.Versions
	mirror   *mirror.Mirror
	spaces   *spaces
	// calls counts failed calls by method and reason.
	calls *prometheus.CounterVec

	// life ends when the driver closes.
	life context.Context //nolint:containedctx // the driver's life, not a call's
	end  context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	settings *manifest.Settings
}

// Open checks the options and begins to follow the cluster, which may be away.
func Open(ctx context.Context, opts Options) (*Driver, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("configure Kubernetes driver: %w", err)
	}
	client, err := kubeapi.New(kubeapi.Config{
		Kubeconfig: opts.Kubeconfig, UserAgent: "sallyport-driver-kubernetes/" + opts.Version, Timeout: opts.CallTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("open Kubernetes driver: %w", err)
	}
	d := &Driver{opts: opts, logger: opts.Logger, api: client, versions: kubeapi.NewVersions(client), calls: newCalls()}
	d.life, d.end = context.WithCancel(context.WithoutCancel(ctx))
	d.spaces = newSpaces(d)
	namespace := ""
	if opts.WorkspaceMode == Shared {
		namespace = opts.Namespace
	}
	d.mirror = mirror.New(mirror.Config{
		Client: client, Versions: d.versions, Namespace: namespace, Accept: d.spaces.accepts, Selector: d.selector(""),
		Verify: d.verify, Logger: opts.Logger,
	})
	again := make(chan struct{}, 1)
	d.spaces.changed = func() {
		select {
		case again <- struct{}{}:
		default:
		}
	}
	d.work.Go(func() { d.spaces.follow(d.life) })
	d.work.Go(func() { d.spaces.renew(d.life) })
	d.work.Go(func() { d.follow(again) })
	return d, nil
}

// follow feeds the mirror, from the start again whenever the namespaces that count have changed.
func (d *Driver) follow(again <-chan struct{}) {
	// A list that was made before the namespaces are known would be taken for a cluster without sandboxes.
	d.spaces.awaitKnown(d.life)
	for d.life.Err() == nil {
		ctx, stop := context.WithCancel(d.life)
		if d.opts.WorkspaceMode == Operator {
			d.work.Go(func() {
				select {
				case <-again:
					stop()
				case <-ctx.Done():
				}
			})
		}
		d.mirror.Run(ctx)
		stop()
	}
}

// Close ends the driver; its sandboxes run on.
func (d *Driver) Close() error {
	d.end()
	d.work.Wait()
	return nil
}

// Ready returns nil while the driver can do its work; otherwise a fault says what is missing.
func (d *Driver) Ready() error {
	if err := d.spaces.ready(); err != nil {
		return err
	}
	return d.mirror.Ready()
}

// firstRead is how long a call waits for a driver that has just begun to read the cluster.
const firstRead = 10 * time.Second

// await is Ready that waits for the driver's first look at the cluster.
func (d *Driver) await(ctx context.Context) error {
	if d.Ready() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstRead)
	defer cancel()
	d.spaces.awaitSync(ctx)
	d.mirror.AwaitSync(ctx)
	return d.Ready()
}

// selector selects the objects of this driver, and of one sandbox where an id is given.
func (d *Driver) selector(id string) string {
	s := manifest.LabelManagedBy + "=" + manifest.ManagedBy + "," + manifest.LabelGateway + "=" + d.opts.GatewayID
	if id != "" {
		s += "," + manifest.LabelID + "=" + id
	}
	return s
}

// build returns what objects are built with. How the supervisor gets into pods is found out once.
func (d *Driver) build(ctx context.Context) (*manifest.Settings, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settings != nil {
		return d.settings, nil
	}
	volume := d.opts.Sideload == SideloadVolume
	if d.opts.Sideload == SideloadAuto {
		minor, err := d.minorVersion(ctx)
		if err != nil {
			return nil, err
		}
		volume = minor >= firstImageVolume
	}
	d.settings = d.opts.settings(volume)
	return d.settings, nil
}

func (d *Driver) minorVersion(ctx context.Context) (int, error) {
	var info struct {
		Minor string `json:"minor"`
	}
	if err := d.api.GetPath(ctx, "/version", &info); err != nil {
		return 0, kubeapi.Explain("read the cluster's version", err)
	}
	// Some distributions write "31+".
	minor, err := strconv.Atoi(strings.TrimRight(info.Minor, "+"))
	if err != nil {
		return 0, fault.Wrap(err, fault.FailedPrecondition, kubeapi.ReasonFailed, "the cluster's version %q is no number", info.Minor).
			WithNext("start the driver with --supervisor-sideload image-volume or init-container")
	}
	return minor, nil
}

// verify asks for a sandbox that was made here and that a list did not show.
func (d *Driver) verify(id string) {
	d.work.Go(func() {
		timer := time.NewTimer(verifyDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.life.Done():
			return
		}
		found, err := d.lookUp(d.life, id)
		switch {
		case err != nil:
			d.logger.Warn("verify a sandbox that a list did not show", "sandbox", id, "error", err)
		case found == nil:
			d.mirror.Forget(id)
		}
	})
}
