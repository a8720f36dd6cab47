package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// transactions has a replica write to its store, by one writer and by many, and
// counts what was applied.
func transactions(ctx context.Context, s *stage) error {
	for _, writers := range []int{1, clients} {
		before, err := s.group.used()
		if err != nil {
			return err
		}
		a, err := s.group.replicas[0].ask(ctx, order{Writers: writers, For: s.pace.ask})
		if err != nil {
			return err
		}
		after, err := s.group.used()
		if err != nil {
			return err
		}
		of := map[int]string{1: ", 1 writer", clients: fmt.Sprintf(", %d writers", clients)}[writers]
		often, long := rate, cpu
		if writers == 1 {
			often, long = plain, plain // it waits for the disk
		}
		s.note("transactions"+of, perSecond, often, float64(a.Count)/a.Took.Seconds())
		s.note("p50"+of, "ms", long, micros(a.P50)/1000)
		s.note("p99"+of, "ms", long, micros(a.P99)/1000)
		if writers > 1 {
			s.note("CPU a transaction"+of, "µs", cpu, float64((after-before).Microseconds())/float64(a.Count))
		}
	}
	return nil
}

// obey does what standard input orders until that ends, and the replica with it.
func (c replicaConfig) obey(ctx context.Context, stop func(), r *consensus.Runner, db *store.DB) {
	defer stop()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return
		}
		a, err := o.do(ctx, c.Founder, r, db)
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return
		}
	}
}

func (o order) do(ctx context.Context, founder bool, r *consensus.Runner, db *store.DB) (answer, error) {
	if founder {
		if err := eventually(ctx, "the founder to lead", func(context.Context) (bool, error) { return r.Status().Tenured, nil }); err != nil {
			return answer{}, err
		}
	}
	switch {
	case o.Add != 0:
		return answer{}, o.add(ctx, r)
	case o.Writers > 0:
		return o.write(ctx, db)
	}
	return answer{}, nil
}

// add makes another replica a voter, when it has caught up.
func (o order) add(ctx context.Context, r *consensus.Runner) error {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := r.ChangeMembership(ctx, consensus.Change{Kind: consensus.AddLearner, RaftID: o.Add, Address: o.Address}, nil); err != nil {
		return err
	}
	var last error
	err := eventually(ctx, "a learner to catch up", func(ctx context.Context) (bool, error) {
		last = r.ChangeMembership(ctx, consensus.Change{Kind: consensus.Promote, RaftID: o.Add}, nil)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// write has writers write without a pause, each a label of 1 KiB of a node of
// its own, so that none conflicts with another.
func (o order) write(ctx context.Context, db *store.DB) (answer, error) {
	nodes := make([]id.ID, o.Writers)
	for w := range nodes {
		nodes[w] = id.New()
		if _, err := db.Update(ctx, nil, func(tx *store.Tx) error {
			return tx.PutNode(&modelv1.Node{Id: nodes[w].Bytes(), Spec: &modelv1.NodeSpec{}})
		}); err != nil {
			return answer{}, err
		}
	}
	waits := make([][]time.Duration, o.Writers)
	n, took, err := during(ctx, o.Writers, o.For, func(ctx context.Context, w, i int) error {
		began := time.Now()
		_, err := db.Update(ctx, nil, label(nodes[w], i))
		waits[w] = append(waits[w], time.Since(began))
		return err
	})
	if err != nil {
		return answer{}, err
	}
	all := slices.Concat(waits...)
	slices.Sort(all)
	return answer{Count: n, Took: took, P50: all[len(all)/2], P99: all[len(all)*99/100]}, nil
}

// kibibyte is what is written, and differs with i.
func kibibyte(i int) string { return fmt.Sprintf("%08d", i) + strings.Repeat("x", 1024-8) }

// label sets the one label of a node.
func label(node id.ID, i int) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		n := proto.CloneOf(tx.Node(node))
		n.Spec.Labels = map[string]string{"bench": kibibyte(i)}
		return tx.PutNode(n)
	}
}
