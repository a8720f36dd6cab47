package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/integration/fleet"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

const (
	// keysPerEpoch and epochTime keep the history of each register short: the
	// search for an order is dear in what is concurrent, and memory in the rest.
	keysPerEpoch = 5
	epochTime    = 30 * time.Second
	// tryTime bounds one call, writeTime a write with all its tries; after that
	// its outcome is unknown.
	tryTime   = 4 * time.Second
	writeTime = 12 * time.Second
	// pauseTime is the most a client rests between two operations.
	pauseTime = 100 * time.Millisecond
)

// clients use the swarm as people do, and write down what they saw.
type clients struct {
	fleet  *fleet.Fleet
	record *recorder
	acked  atomic.Int64 // time of the last acknowledged write
}

// run lets n clients read and write until ctx ends.
func (c *clients) run(ctx context.Context, n int, seed uint64) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			one := &client{clients: c, number: i, rng: rand.New(rand.NewPCG(seed, uint64(i))), conns: map[*fleet.Member]*grpc.ClientConn{}}
			defer one.hangUp()
			one.run(ctx)
		})
	}
	all.Wait()
}

// key is a register of an epoch: its node, and its label.
func (c *clients) key(n int, epoch int64) (node, label string) {
	return c.fleet.Members[n%len(c.fleet.Members)].Name(), fmt.Sprintf("x%d.%d", n, epoch)
}

func (c *clients) epoch() int64 { return c.record.now() / int64(epochTime) }

// A client is one of them: it prefers one manager and takes the next when that
// does not answer, as ctl does.
type client struct {
	*clients
	number int
	wrote  int
	at     int // which manager
	rng    *rand.Rand
	conns  map[*fleet.Member]*grpc.ClientConn
	swept  int64 // the epoch whose labels it has removed
}

func (c *client) run(ctx context.Context) {
	c.at = c.number
	for ctx.Err() == nil {
		epoch := c.epoch()
		if node, label := c.key(c.rng.IntN(keysPerEpoch), epoch); c.rng.IntN(2) == 0 {
			c.write(ctx, node, label)
		} else if o, ok := c.read(ctx, c.manager(), node, label); ok {
			c.record.put(line{Op: &o})
		}
		if c.number == 0 && epoch > c.swept+1 {
			c.sweep(ctx, epoch-2)
			c.swept = epoch - 1
		}
		rest(ctx, time.Duration(c.rng.Int64N(int64(pauseTime))))
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (c *client) manager() *fleet.Member {
	all := c.fleet.Managers()
	return all[c.at%len(all)]
}

// write sets a label, by the same request at one manager after the other until
// one acknowledges it.
func (c *client) write(ctx context.Context, node, label string) {
	c.wrote++
	o := op{Client: c.number, Key: node + "/" + label, Write: true, Value: fmt.Sprintf("%d.%d", c.number, c.wrote), Call: c.record.now()}
	q := &controlv1.UpdateNodeRequest{RequestId: fleet.RequestID(), Ref: node, LabelsAdd: map[string]string{label: o.Value}}
	o.Unknown = !c.change(ctx, q)
	o.Return = c.record.now()
	if !o.Unknown {
		c.acked.Store(o.Return)
	}
	c.record.put(line{Op: &o})
}

// change reports whether a change was acknowledged.
func (c *client) change(ctx context.Context, q *controlv1.UpdateNodeRequest) bool {
	ctx, stop := context.WithTimeout(ctx, writeTime)
	defer stop()
	for ctx.Err() == nil {
		err := c.ask(ctx, c.manager(), func(ctx context.Context, api controlv1.ControlClient) error {
			_, err := api.UpdateNode(ctx, q)
			return err
		})
		if err == nil {
			return true
		}
		c.at++
		rest(ctx, pauseTime)
	}
	return false
}

// read reads a label at a manager. A read without an answer says nothing.
func (c *client) read(ctx context.Context, m *fleet.Member, node, label string) (o op, ok bool) {
	o = op{Client: c.number, Key: node + "/" + label, Call: c.record.now()}
	err := c.ask(ctx, m, func(ctx context.Context, api controlv1.ControlClient) error {
		resp, err := api.GetNode(ctx, &controlv1.GetNodeRequest{Ref: node})
		o.Value = resp.GetNode().GetNode().GetSpec().GetLabels()[label]
		return err
	})
	o.Return = c.record.now()
	if err != nil {
		c.at++
	}
	return o, err == nil
}

// sweep removes the labels of an epoch that nobody uses any more.
func (c *client) sweep(ctx context.Context, epoch int64) {
	for n := range keysPerEpoch {
		node, label := c.key(n, epoch)
		c.change(ctx, &controlv1.UpdateNodeRequest{RequestId: fleet.RequestID(), Ref: node, LabelsRm: []string{label}})
	}
}

// ask makes one call at a manager; a connection that failed is not used again.
func (c *client) ask(ctx context.Context, m *fleet.Member, call func(context.Context, controlv1.ControlClient) error) error {
	ctx, stop := context.WithTimeout(ctx, tryTime)
	defer stop()
	cc := c.conns[m]
	if cc == nil {
		var err error
		if cc, err = m.Dial(); err != nil {
			return err
		}
		c.conns[m] = cc
	}
	err := call(ctx, controlv1.NewControlClient(cc))
	if err != nil {
		_ = cc.Close() // nothing else is in flight on it
		delete(c.conns, m)
	}
	return err
}

func (c *client) hangUp() {
	for _, cc := range c.conns {
		_ = cc.Close() // nothing is in flight on it
	}
}
