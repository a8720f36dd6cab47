package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// pullTimeout bounds one download as a whole; a registry that falls silent is
// given up much earlier (see registry.go).
const pullTimeout = 30 * time.Minute

// image returns the image ref, unpacked and ready to be run. One that is here
// is used at once, without asking its registry, whatever its tag means there
// now. auth may be nil.
func (r *Runtime) image(ctx context.Context, ref string, auth *modelv1.RegistryAuth) (client.Image, error) {
	snapshotter, err := r.snapshotter(ctx)
	if err != nil {
		return nil, err
	}
	img, err := r.present(ctx, ref, snapshotter)
	if err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	creds := credentialsFor(ref, auth)
	// Two services with different credentials do not share a download: what
	// one may see says nothing about the other.
	err = r.pulls.do(ctx, ref+" "+creds.digest(), func(ctx context.Context) error {
		return r.pull(ctx, ref, creds, snapshotter)
	})
	if err != nil {
		return nil, err
	}
	return r.present(ctx, ref, snapshotter)
}

// present returns the image if all of it is here, unpacking it if need be, and
// otherwise a not-found error.
func (r *Runtime) present(ctx context.Context, ref, snapshotter string) (client.Image, error) {
	rec, err := r.client.ImageService().Get(ctx, ref)
	if err != nil {
		return nil, imageError(ref, err)
	}
	platform := platforms.Default()
	available, _, _, _, err := images.Check(ctx, r.client.ContentStore(), rec.Target, platform)
	if err != nil {
		return nil, imageError(ref, err)
	}
	img := client.NewImageWithPlatform(r.client, rec, platform)
	unpacked, err := img.IsUnpacked(ctx, snapshotter)
	if err != nil {
		return nil, imageError(ref, err)
	}
	switch {
	case unpacked:
		return img, nil
	case !available:
		return nil, fmt.Errorf("image %s: parts of it are missing: %w", ref, errdefs.ErrNotFound)
	}
	if err := img.Unpack(ctx, snapshotter); err != nil {
		return nil, imageError(ref, err)
	}
	return img, nil
}

func imageError(ref string, err error) error {
	if exec.Unavailable(err) {
		return fmt.Errorf("image %s: %w: %w", ref, exec.ErrUnavailable, err)
	}
	return fmt.Errorf("image %s: %w", ref, err)
}

// pull downloads and unpacks an image.
func (r *Runtime) pull(ctx context.Context, ref string, creds credentials, snapshotter string) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	begin := time.Now()
	_, err := r.client.Pull(ctx, ref,
		client.WithResolver(r.resolver(ctx, creds)),
		client.WithPlatformMatcher(platforms.Default()),
		client.WithPullUnpack,
		client.WithPullSnapshotter(snapshotter),
		client.WithMaxConcurrentDownloads(3))
	r.pulled(time.Since(begin), err)
	if err != nil {
		return pullError(ref, creds, err)
	}
	r.cfg.Log.InfoContext(ctx, "image pulled", slog.String("image", ref), slog.Duration("took", time.Since(begin)))
	return nil
}

// snapshotter returns the name of the snapshotter to use.
func (r *Runtime) snapshotter(ctx context.Context) (string, error) {
	if r.cfg.Snapshotter != "" {
		return r.cfg.Snapshotter, nil
	}
	resp, err := r.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return "", r.words("choose snapshotter", err)
	}
	works := map[string]bool{}
	for _, p := range resp.Plugins {
		works[p.ID] = p.InitErr == nil
	}
	for _, name := range []string{"overlayfs", "native"} {
		if works[name] {
			return name, nil
		}
	}
	return "", fmt.Errorf("containerd at %s has neither the overlayfs nor the native snapshotter", r.cfg.Address)
}
