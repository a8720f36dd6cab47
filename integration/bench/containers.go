package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/platforms"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	fleets "github.com/skep-project/skep/integration/fleet"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// containers starts real containers through the swarm, and then as many of the
// same image through containerd's own client, on the same hosts, as many at once.
func containers(ctx context.Context, s *stage) error {
	cc, err := s.hosts.Members[0].Dial()
	if err != nil {
		return err
	}
	defer cc.Close()
	c := controlv1.NewControlClient(cc)
	// The first ones pull the image and warm the hosts up.
	workers := s.hosts.Others(s.hosts.Members[0])
	if _, _, err := started(ctx, c, "first", len(workers)); err != nil {
		return errors.Join(err, errors.New(s.hosts.Logs(4<<10)))
	}
	ours, down, err := started(ctx, c, "many", s.replicas)
	if err != nil {
		return errors.Join(err, errors.New(s.hosts.Logs(4<<10)))
	}
	s.note("all running", "s", plain, ours.Seconds())
	s.note("scaled to 0", "s", plain, down.Seconds())
	theirs, err := throughClients(ctx, workers, s.replicas/len(workers))
	if err != nil {
		return err
	}
	s.note("containerd's own client", "s", plain, theirs.Seconds())
	s.note("against containerd's own client", "×", plain, ours.Seconds()/theirs.Seconds())
	return nil
}

// started makes a service of n containers on the workers and takes it away again.
func started(ctx context.Context, c controlv1.ControlClient, name string, n int) (up, down time.Duration, err error) {
	tpl := template("")
	tpl.Container.Args, tpl.Container.StopGracePeriod = []string{"sleep", "1000000"}, int64(time.Second)
	tpl.Placement = &modelv1.Placement{Constraints: []string{"node.role==worker"}}
	began := time.Now()
	if _, err := c.CreateService(ctx, &controlv1.CreateServiceRequest{RequestId: fleets.RequestID(), Spec: spec(name, n), Template: tpl}); err != nil {
		return 0, 0, err
	}
	up, err = untilAt(ctx, c, name, began, func(v *controlv1.ServiceView) bool { return v.GetRunning() == uint64(n) }) //nolint:gosec // not negative
	if err != nil {
		return 0, 0, err
	}
	began = time.Now()
	if _, err := c.RemoveService(ctx, &controlv1.RemoveServiceRequest{RequestId: fleets.RequestID(), Ref: name}); err != nil {
		return 0, 0, err
	}
	err = fleets.Until(ctx, 2*time.Minute, func(ctx context.Context) error {
		resp, err := c.ListServices(ctx, &controlv1.ListServicesRequest{})
		if err == nil && len(resp.GetServices()) > 0 {
			err = fmt.Errorf("service %s is still there", name)
		}
		return err
	})
	return up, time.Since(began), err
}

// throughClients starts n containers at once on each of the hosts, by their own
// containerd, and returns how long it took until all ran.
func throughClients(ctx context.Context, on []*fleets.Member, n int) (took time.Duration, err error) {
	ctx = namespaces.WithNamespace(ctx, "skep-bench")
	var all []*bare
	for _, m := range on {
		b, err := newBare(ctx, m)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", m.Name(), err)
		}
		defer func() { err = errors.Join(err, b.client.Close()) }()
		all = append(all, b)
	}
	g, gctx := errgroup.WithContext(ctx)
	began := time.Now()
	for _, b := range all {
		for i := range n {
			g.Go(func() error { return b.start(gctx, i) })
		}
	}
	err = g.Wait()
	took = time.Since(began)
	for _, b := range all {
		for i := range n {
			err = errors.Join(err, b.remove(ctx, i))
		}
	}
	return took, err
}

// A bare is one host's containerd without an agent before it.
type bare struct {
	client *client.Client
	image  client.Image
	// snapshotter is the one that the agent uses there.
	snapshotter string
}

func newBare(ctx context.Context, m *fleets.Member) (*bare, error) {
	socket := m.Inside("/run/skep/containerd/containerd.sock")
	c, err := client.New(socket, client.WithTimeout(patience), client.WithExtraDialOpts([]grpc.DialOption{}))
	if err != nil {
		return nil, err
	}
	ours, err := c.ListImages(namespaces.WithNamespace(ctx, "skep"))
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for _, img := range ours {
		if strings.Contains(img.Name(), "alpine") {
			b := &bare{client: c, snapshotter: "overlayfs"}
			return b, b.take(ctx, img)
		}
	}
	return nil, errors.Join(errors.New("the agent has no image of alpine"), c.Close())
}

// take makes the agent's image one of this namespace too, unpacked: what one
// namespace of containerd holds the other does not see.
func (b *bare) take(ctx context.Context, img client.Image) error {
	r, w := io.Pipe()
	go func() {
		from := namespaces.WithNamespace(ctx, "skep")
		w.CloseWithError(b.client.Export(from, w, archive.WithPlatform(platforms.Default()), archive.WithImage(b.client.ImageService(), img.Name())))
	}()
	taken, err := b.client.Import(ctx, r, client.WithImportPlatform(platforms.Default()))
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("take the agent's image: %w", err)
	}
	b.image = client.NewImage(b.client, taken[0])
	if err := b.image.Unpack(ctx, b.snapshotter); err != nil {
		b.snapshotter = "native" // as the agent does where overlays do not work
		return b.image.Unpack(ctx, b.snapshotter)
	}
	return nil
}

func name(i int) string { return fmt.Sprintf("bare-%d", i) }

// start makes one container as the agent would and starts it.
func (b *bare) start(ctx context.Context, i int) error {
	c, err := b.client.NewContainer(ctx, name(i),
		client.WithSnapshotter(b.snapshotter), client.WithNewSnapshot(name(i), b.image), client.WithImage(b.image),
		client.WithRuntime("io.containerd.runc.v2", &runc.Options{}),
		client.WithNewSpec(oci.WithDefaultUnixDevices, oci.WithDefaultPathEnv, oci.WithProcessArgs("sleep", "1000000"),
			oci.WithHostNamespace(specs.NetworkNamespace), oci.WithCgroup("/skep/"+name(i)), oci.WithNoNewPrivileges,
			seccomp.WithDefaultProfile()))
	if err != nil {
		return err
	}
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	return task.Start(ctx)
}

// remove ends one container and removes all of it.
func (b *bare) remove(ctx context.Context, i int) error {
	c, err := b.client.LoadContainer(ctx, name(i))
	if err != nil {
		return err
	}
	task, err := c.Task(ctx, nil)
	if err == nil {
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	return errors.Join(err, c.Delete(ctx, client.WithSnapshotCleanup))
}
