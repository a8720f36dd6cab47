package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/consensus"
)

// A group is replicas of the store, each a process of its own that runs what a
// manager runs below its API: store, log and the wire between members. The first
// one founded it.
type group struct {
	dir      string
	replicas []*replica
}

// A replica is one process of a group as the bench sees it.
type replica struct {
	replicaConfig
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

// gather starts n replicas on the disk that holds dir and makes them one group.
func gather(ctx context.Context, o options, of scenario) (g *group, err error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return nil, err
	}
	g = &group{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	shared, err := newReplicaConfig()
	if err != nil {
		return g, err
	}
	for i := range of.managers {
		r, err := g.start(shared, i, o.profileOf(of, i))
		if err != nil {
			return g, err
		}
		g.replicas = append(g.replicas, r)
	}
	for _, r := range g.replicas {
		if _, err := r.ask(ctx, order{}); err != nil { // it answers when it runs
			return g, err
		}
	}
	for _, r := range g.replicas[1:] {
		if _, err := g.replicas[0].ask(ctx, order{Add: r.RaftID, Address: r.Address}); err != nil {
			return g, err
		}
	}
	return g, nil
}

// newReplicaConfig draws what all replicas of a group share.
func newReplicaConfig() (c replicaConfig, err error) {
	c.Cluster, c.History = id.New().Bytes(), id.New().Bytes()
	if c.Ring, err = proto.Marshal(sealed.NewRing().Proto()); err != nil {
		return c, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{certified},
		IsCA: true, BasicConstraintsValid: true,
	}
	if c.Certificate, err = x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key); err != nil {
		return c, err
	}
	c.PrivateKey, err = x509.MarshalECPrivateKey(key)
	return c, err
}

// start starts one replica's process.
func (g *group) start(c replicaConfig, i int, profile string) (*replica, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.Address, c.RaftID, c.Node, c.Founder = lis.Addr().String(), consensus.NewRaftID(), id.New().Bytes(), i == 0
	c.Dir = filepath.Join(g.dir, fmt.Sprintf("m%d", i+1))
	if err := errors.Join(lis.Close(), os.Mkdir(c.Dir, 0o700)); err != nil {
		return nil, err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.Dir, "replica.json")
	if err := os.WriteFile(file, data, 0o600); err != nil { // it holds keys
		return nil, err
	}
	return c.spawn(file, profile)
}

// spawn starts the process that reads its configuration from file.
func (c replicaConfig) spawn(file, profile string) (*replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &replica{replicaConfig: c, cmd: exec.Command(self, "replica", file)}
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.in, r.out = json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	r.cmd.Stderr, r.cmd.Env = os.Stderr, append(os.Environ(), envProfile+"="+profile)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return r, r.cmd.Start()
}

// ask gives a replica an order and returns its answer. One that does not answer
// is ended with the group, and the wait for it with that.
func (r *replica) ask(ctx context.Context, o order) (a answer, err error) {
	stop := context.AfterFunc(ctx, func() { _ = r.cmd.Process.Kill() })
	defer stop()
	late := time.AfterFunc(patience+o.For, func() { _ = r.cmd.Process.Kill() })
	defer late.Stop()
	if err := r.in.Encode(o); err != nil {
		return a, fmt.Errorf("order a replica: %w", err)
	}
	if err := r.out.Decode(&a); err != nil {
		return a, fmt.Errorf("hear from a replica: %w", err)
	}
	if a.Err != "" {
		return a, errors.New("replica: " + a.Err)
	}
	return a, nil
}

// used is the processor time of all replicas so far.
func (g *group) used() (sum time.Duration, err error) {
	for _, r := range g.replicas {
		u, err := usageOf(r.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += u.cpu
	}
	return sum, nil
}

// close ends the replicas and removes all they wrote.
func (g *group) close() error {
	for _, r := range g.replicas {
		_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, r := range g.replicas {
		kill := time.AfterFunc(patience, func() { _ = r.cmd.Process.Kill() })
		_ = r.cmd.Wait() // how it ended is not what is measured
		kill.Stop()
	}
	return os.RemoveAll(g.dir)
}
