package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A machine is what three simple things cost here.
type machine struct {
	sync   time.Duration // fdatasync of 4 KiB behind a file's end, median
	sign   time.Duration // one ECDSA P-256 signature
	stream time.Duration // one message over a loopback connection and its answer, median
	load   float64       // processes that ran or waited to, over the last minute
}

// reference is the machine that the targets were set on.
var reference = machine{sync: 300 * time.Microsecond, sign: 40 * time.Microsecond, stream: 20 * time.Microsecond}

func (m machine) String() string {
	return fmt.Sprintf("fdatasync %v, P-256 signature %v, loopback message and answer %v, load %v",
		m.sync.Round(time.Microsecond), m.sign.Round(time.Microsecond), m.stream.Round(time.Microsecond), m.load)
}

// slower is how many times slower than the reference its processor is.
func (m machine) slower() float64 { return float64(m.sign) / float64(reference.sign) }

// probe measures the machine.
func probe(dir string) (m machine, err error) {
	if m.sync, err = probeSync(dir); err != nil {
		return m, fmt.Errorf("probe the disk: %w", err)
	}
	if m.sign, err = probeSign(); err != nil {
		return m, fmt.Errorf("probe the processor: %w", err)
	}
	if m.stream, err = probeStream(); err != nil {
		return m, fmt.Errorf("probe the loopback: %w", err)
	}
	m.load = load()
	return m, nil
}

// load is the machine's load of the last minute, without which no figure says
// anything; zero where it is not told.
func load() float64 {
	data, _ := os.ReadFile("/proc/loadavg") // what is missing is not said
	one, _, _ := strings.Cut(string(data), " ")
	v, _ := strconv.ParseFloat(one, 64)
	return v
}

const probes = 400

func probeSync(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "probe")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // what stays lies where temporary files lie
	defer f.Close()
	page := make([]byte, 4096)
	return median(func() error {
		if _, err := f.Write(page); err != nil {
			return err
		}
		return datasync(f)
	})
}

func probeSign() (time.Duration, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("probe"))
	return median(func() error {
		_, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		return err
	})
}

func probeStream() (time.Duration, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer lis.Close()
	echoed := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			err = errors.Join(err, conn.Close())
		}
		echoed <- err
	}()
	conn, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		return 0, err
	}
	msg := make([]byte, 128)
	took, err := median(func() error {
		if _, err := conn.Write(msg); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, msg)
		return err
	})
	return took, errors.Join(err, conn.Close(), <-echoed)
}

// median times do many times and returns the median.
func median(do func() error) (time.Duration, error) {
	took := make([]time.Duration, probes)
	for i := range took {
		began := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[probes/2], nil
}
