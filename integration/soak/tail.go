package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skep-project/skep/integration/fleet"
)

// A manager's log is segments of full length, in which records stand one behind
// the other, each behind its length; zeros follow the last.
const (
	lengthBytes = 8
	sectorBytes = 512 // what a disk writes whole
)

// records returns where each record of a segment begins and where the last ends.
func records(segment []byte) (at []int64, err error) {
	for n := int64(0); ; {
		at = append(at, n)
		if n+lengthBytes > int64(len(segment)) {
			return at, nil
		}
		length := binary.LittleEndian.Uint64(segment[n:])
		if length == 0 {
			return at, nil
		}
		size := int64(length&(1<<56-1)) + int64(length>>56&7) // and what fills it up
		if size > int64(len(segment))-n-lengthBytes {
			return nil, fmt.Errorf("record at byte %d: %d bytes, and %d are there", n, size, int64(len(segment))-n-lengthBytes)
		}
		n += lengthBytes + size
	}
}

// lastSegment is the file that a manager's log is written to now.
func lastSegment(m *fleet.Member) (path string, at []int64, err error) {
	names, err := filepath.Glob(filepath.Join(m.Dir(), "state/raft/wal/*.wal"))
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s has no log", m.Name())
	}
	if err != nil {
		return "", nil, err
	}
	path = slices.Max(names)
	segment, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	if at, err = records(segment); err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return path, at, nil
}

// overwrite makes a file's bytes from at on those, and zeros to its end or nothing.
func overwrite(path string, at int64, with []byte, zeros bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Truncate(at)
	}
	if err == nil {
		_, err = f.WriteAt(with, at)
	}
	if err == nil && zeros {
		err = f.Truncate(max(info.Size(), at+int64(len(with))))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// halfWritten are the first bytes, to the end of a sector, of a record that would
// begin at byte at of a segment and was being written when the power went.
func halfWritten(at int64) []byte {
	record := binary.LittleEndian.AppendUint64(nil, 4*sectorBytes)
	return append(record, bytes.Repeat([]byte{0x5a}, int(2*sectorBytes-at%sectorBytes)-lengthBytes)...)
}

// tearTail kills a manager's daemon as if in the midst of a write: all that it
// acknowledged is there, and a part of a record behind it. It has to come back.
func tearTail(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	v, zeros := victims[0], n.rng.IntN(2) == 0
	mend := func(ctx context.Context) error {
		if err := v.Start(ctx); err != nil {
			return err
		}
		return n.Whole(ctx, calmTime)
	}
	if err := v.KillDaemon(ctx); err != nil {
		return nil, err
	}
	path, at, err := lastSegment(v)
	if err == nil {
		end := at[len(at)-1]
		err = overwrite(path, end, halfWritten(end), zeros)
	}
	return mend, err
}

// lostRecords is how many records at the end of a log a disk loses at most.
const lostRecords = 60

// loseTail kills a manager's daemon and takes the last records of its log away, as
// a disk does that said they are written: it comes back, or says that it must
// rejoin, which has to cure it.
func loseTail(n *nemesis, ctx context.Context, victims []*fleet.Member) (func(context.Context) error, error) {
	v, lost, zeros := victims[0], 1+n.rng.IntN(lostRecords), n.rng.IntN(2) == 0
	if err := n.Whole(ctx, calmTime); err != nil { // else it may cost what only it had
		return nil, err
	}
	if err := v.KillDaemon(ctx); err != nil {
		return nil, err
	}
	mend := func(ctx context.Context) error {
		if err := n.othersLead(ctx, v); err != nil {
			return err
		}
		if err := v.Start(ctx); err != nil {
			return err
		}
		return n.backOrRejoins(ctx, v)
	}
	path, at, err := lastSegment(v)
	if err == nil {
		lost = min(lost, len(at)-1)
		n.say("    %d records of %d are gone", lost, len(at)-1)
		err = overwrite(path, at[len(at)-1-lost], nil, zeros)
	}
	return mend, err
}

// othersLead waits until another manager than v leads: one with less than it
// promised may not choose among them.
func (n *nemesis) othersLead(ctx context.Context, v *fleet.Member) error {
	return fleet.Until(ctx, calmTime, func(ctx context.Context) error {
		lead, err := n.Leader(ctx)
		if err == nil && lead == v {
			err = fmt.Errorf("%s is said to lead, and is dead", v.Name())
		}
		return err
	})
}

// backOrRejoins waits until v is a manager as it was, or says that it must rejoin.
func (n *nemesis) backOrRejoins(ctx context.Context, v *fleet.Member) error {
	refused := false
	err := fleet.Until(ctx, calmTime, func(ctx context.Context) error {
		out, err := v.Must(ctx, "ctl info")
		if refused = strings.Contains(out, "it must rejoin"); refused || err != nil {
			return err
		}
		return n.Whole(ctx, time.Second)
	})
	if err != nil || !refused {
		return err
	}
	n.say("    %s must rejoin", v.Name())
	return n.rejoin(ctx, v)
}
