package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/consensus/wire"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// certified is the name in the certificate that a group's replicas share: the
// one that connections made by rpc ask for.
const certified = "skep"

// A replicaConfig is what a replica's process is told.
type replicaConfig struct {
	Dir, Address           string
	RaftID                 uint64
	Cluster, History, Node []byte
	Founder                bool
	Ring                   []byte
	Certificate            []byte
	PrivateKey             []byte
}

// An order is what a replica is to do; the zero order is to say that it runs.
type order struct {
	Add     uint64 `json:",omitempty"` // a replica to make a voter
	Address string `json:",omitempty"` // where that one is
	Writers int    `json:",omitempty"` // how many write at once
	For     time.Duration
}

// An answer is what became of an order.
type answer struct {
	Err      string `json:",omitempty"`
	Count    int
	Took     time.Duration
	P50, P99 time.Duration
}

// stateMachine is the store as consensus sees it.
type stateMachine struct{ *store.Store }

// Encode returns a function that writes the state as it is now.
func (m stateMachine) Encode() func(io.Writer) error { return m.Snapshot().Encode }

// serveReplica is the process of one replica, until it is told to end.
func serveReplica(file string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if file := os.Getenv(envProfile); file != "" {
		if err := startProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var c replicaConfig
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return c.run(ctx)
}

func (c replicaConfig) run(ctx context.Context) error {
	creds, err := c.tls()
	if err != nil {
		return err
	}
	w := wire.New(wire.Config{
		RaftID: c.RaftID, Hello: c.hello, Address: c.Address, Log: warnings(),
		Dial: func(_ context.Context, _ uint64, address string) (*grpc.ClientConn, error) {
			return rpc.DialWith(address, creds)
		},
	})
	s := store.New()
	r, err := c.open(stateMachine{s}, w)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", c.Address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(creds), grpc.MaxRecvMsgSize(32<<20))
	raftv1.RegisterRaftServer(server, w.Server())
	ended := make(chan error, 2)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { ended <- r.Run(ctx) }()
	go func() { ended <- server.Serve(lis) }()
	context.AfterFunc(ctx, server.Stop)
	go c.obey(ctx, stop, r, store.NewDB(s, r)) // ends with standard input, or the process
	return errors.Join(<-ended, <-ended)
}

// tls is how replicas prove themselves to each other, both ways.
func (c replicaConfig) tls() (credentials.TransportCredentials, error) {
	key, err := x509.ParseECPrivateKey(c.PrivateKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{c.Certificate}, PrivateKey: key}},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, RootCAs: roots, ServerName: certified,
	}), nil
}

// warnings is the log of a replica.
func warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (c replicaConfig) hello() *rpcv1.Hello {
	return &rpcv1.Hello{Version: version.Version, FeatureLevel: version.FeatureLevel, Cluster: c.Cluster, History: c.History, Node: c.Node}
}

// open makes this replica's log and opens it, with the shipped defaults.
func (c replicaConfig) open(m consensus.Machine, t consensus.Transport) (*consensus.Runner, error) {
	var ring logv1.Ring
	if err := proto.Unmarshal(c.Ring, &ring); err != nil {
		return nil, err
	}
	keys, err := sealed.RingFromProto(&ring)
	if err != nil {
		return nil, err
	}
	var ids [3]id.ID
	for i, b := range [][]byte{c.Cluster, c.History, c.Node} {
		if ids[i], err = id.FromBytes(b); err != nil {
			return nil, err
		}
	}
	cfg := consensus.Config{
		Dir: c.Dir, RaftID: c.RaftID, Cluster: ids[0], History: ids[1], Node: ids[2], Ring: keys,
		Machine: m, Transport: t, Log: warnings(),
	}
	if c.Founder {
		err = consensus.Bootstrap(cfg, nil)
	} else {
		err = consensus.JoinDir(cfg)
	}
	if err != nil {
		return nil, err
	}
	return consensus.Open(cfg)
}
