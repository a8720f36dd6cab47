package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// echoBytes is how much goes each way: about a heartbeat and its answer.
const echoBytes = 60

// serveEcho is a process that sends back what it is sent on TLS connections, with a
// goroutine for each and nothing else: the least that a heartbeat on a connection of its
// own costs. It writes its address and its certificate, and ends with
// its standard input.
func serveEcho() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{certified}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		return err
	}
	lis, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Println(lis.Addr(), base64.StdEncoding.EncodeToString(der)); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what counts
		_ = lis.Close()
	}()
	for {
		conn, err := lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			msg := make([]byte, echoBytes)
			for {
				if _, err := io.ReadFull(conn, msg); err != nil {
					return // the other side has what it wanted
				}
				if _, err := conn.Write(msg); err != nil {
					return
				}
			}
		}()
	}
}

// bareEcho returns the processor time of an echo that is sent what so many agents beat
// each period, in as many turns as they have, for a time.
func bareEcho(ctx context.Context, agents int, period, pace, during time.Duration) (cpu time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "echo")
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, in.Close(), cmd.Wait()) }()
	var address, encoded string
	if _, err := fmt.Fscanln(out, &address, &encoded); err != nil {
		return 0, fmt.Errorf("hear from the echo: %w", err)
	}
	leaf, err := parseEncoded(encoded)
	if err != nil {
		return 0, err
	}
	conns, hangUp, err := connect(ctx, address, leaf, agents)
	defer func() { err = errors.Join(err, hangUp()) }()
	if err != nil {
		return 0, err
	}
	before, err := usageOf(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	if err := beatOn(ctx, conns, max(1, int(int64(agents)*int64(pace)/int64(period))), pace, during); err != nil {
		return 0, err
	}
	after, err := usageOf(cmd.Process.Pid)
	return after.cpu - before.cpu, err
}

func parseEncoded(certificate string) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(certificate)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// connect makes connections to the echo that has the certificate, and reads what comes on
// them. hangUp ends both.
func connect(ctx context.Context, address string, leaf *x509.Certificate, n int) (conns []net.Conn, hangUp func() error, err error) {
	var reading errgroup.Group
	hangUp = func() error {
		for _, c := range conns {
			_ = c.Close() // nothing is expected of it any more
		}
		return reading.Wait()
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	dialer := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: certified}}
	for range n {
		c, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return conns, hangUp, err
		}
		conns = append(conns, c)
		reading.Go(func() error {
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return conns, hangUp, nil
}

// beatOn sends on so many connections at each turn, one after the other.
func beatOn(ctx context.Context, conns []net.Conn, together int, pace, during time.Duration) error {
	turn := time.NewTicker(pace)
	defer turn.Stop()
	msg := make([]byte, echoBytes)
	next := 0
	for began := time.Now(); time.Since(began) < during; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turn.C:
		}
		for range together {
			if _, err := conns[next%len(conns)].Write(msg); err != nil {
				return err
			}
			next++
		}
	}
	return nil
}
