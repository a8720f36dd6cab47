package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillerName is the file in a host's state directory that takes its space.
const fillerName = ".skep-lab-filler"

// The kernel's requests to hold back every write to a file system, and to let
// them go on (linux/fs.h).
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// The request that an ext4 shut down at once (fs/ext4/ext4.h), and the word that what
// it has not written yet be lost.
const (
	extShutdown = 0x8004587D
	goingNoLog  = 2
)

// Disk gives a dark host a disk of its own of that many bytes under StateDir:
// an ext4 in a file that takes the space it needs. What it held before is
// hidden. Without it the host shares the machine's disk, which cannot be filled
// or held up for one host alone.
func (h *Host) Disk(bytes int64) error {
	if h.machine != nil || h.disk {
		return fmt.Errorf("lab: disk of %s: want a dark host without one", h.name)
	}
	image := filepath.Join(h.dir, diskImage)
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	if err == nil {
		err = command("mkfs.ext4", "-q", "-F", "-m", "0", image)
	}
	if err == nil {
		err = mountDisk(h.dir, h.stateDir())
	}
	if err != nil {
		return fmt.Errorf("lab: disk of %s: %w", h.name, err)
	}
	h.disk = true
	return nil
}

// diskImage is the file in a host's directory that holds its disk.
const diskImage = "disk.img"

func mountDisk(dir, at string) error {
	return command("mount", "-o", "loop", filepath.Join(dir, diskImage), at)
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// FillDisk leaves that many bytes of the host's disk free, until EmptyDisk.
func (h *Host) FillDisk(leave int64) error {
	var s unix.Statfs_t
	if err := errors.Join(h.ownDisk(), unix.Statfs(h.stateDir(), &s)); err != nil {
		return fmt.Errorf("lab: fill the disk of %s: %w", h.name, err)
	}
	take := int64(s.Bavail)*s.Bsize - leave
	if take <= 0 {
		return nil // it is that full already
	}
	f, err := os.OpenFile(filepath.Join(h.stateDir(), fillerName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, take), f.Close())
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) { // what others took meanwhile
		return fmt.Errorf("lab: fill the disk of %s: %w", h.name, err)
	}
	return nil
}

// EmptyDisk gives back what FillDisk took.
func (h *Host) EmptyDisk() error {
	err := os.Remove(filepath.Join(h.stateDir(), fillerName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab: empty the disk of %s: %w", h.name, err)
	}
	return nil
}

// StallDisk holds back every write and sync to the host's disk, as one that
// hangs would, until ReleaseDisk. Those who write wait and cannot be killed.
func (h *Host) StallDisk() error {
	err := h.ownDisk()
	if err == nil && !h.stalled {
		err = demand(h.stateDir(), fiFreeze)
	}
	if err != nil {
		return fmt.Errorf("lab: stall the disk of %s: %w", h.name, err)
	}
	h.stalled = true
	return nil
}

// ReleaseDisk undoes StallDisk.
func (h *Host) ReleaseDisk() error {
	if !h.stalled {
		return nil
	}
	if err := demand(h.stateDir(), fiThaw); err != nil {
		return fmt.Errorf("lab: release the disk of %s: %w", h.name, err)
	}
	h.stalled = false
	return nil
}

// BreakDisk has every read and write of the host's disk fail with an error of I/O, as
// one that dies would, until RepairDisk. What no sync has brought to it is lost.
//
// The host's processes stand still meanwhile, outside the kernel: of a sync that is under
// way when an ext4 is shut down the kernel says that it went well, one time in twenty,
// and loses what it was of (Linux 6.18). No disk does that.
func (h *Host) BreakDisk() error {
	err := h.ownDisk()
	if err == nil {
		err = h.standing(func() error {
			return control(h.stateDir(), func(fd int) error { return unix.IoctlSetPointerInt(fd, extShutdown, goingNoLog) })
		})
	}
	if err != nil {
		return fmt.Errorf("lab: break the disk of %s: %w", h.name, err)
	}
	return nil
}

// standing does f while the host's processes stand still.
func (h *Host) standing(f func() error) error {
	if h.machine == nil || h.frozen {
		return f()
	}
	err := h.Pause()
	if err == nil {
		err = h.awaitStanding()
	}
	if err == nil {
		err = f()
	}
	return errors.Join(err, h.Resume())
}

func (h *Host) awaitStanding() error {
	const tries, rest = 5000, time.Millisecond
	for range tries {
		for _, c := range h.lab.cgroups {
			if still, err := c.frozen(h.lab.name, h.name); err != nil || still {
				return err
			}
		}
		time.Sleep(rest)
	}
	return fmt.Errorf("its processes do not come to a stand within %v", tries*rest)
}

// RepairDisk gives a dark host its disk back as BreakDisk left it.
func (h *Host) RepairDisk() error {
	err := h.ownDisk()
	if h.machine != nil {
		err = errors.New("it has power")
	}
	if err == nil {
		err = h.remountDisk()
	}
	if err != nil {
		return fmt.Errorf("lab: repair the disk of %s: %w", h.name, err)
	}
	return nil
}

// remountDisk mounts the disk anew. A file system that was shut down stays so until its
// last mount is gone, and there may be another for a moment: of a process that ends, or
// of a host that boots and has not put its own root in place yet.
func (h *Host) remountDisk() error {
	const tries, rest = 100, 50 * time.Millisecond
	for try := 1; ; try++ {
		if err := unix.Unmount(h.stateDir(), 0); err != nil {
			return err
		}
		if err := mountDisk(h.dir, h.stateDir()); err != nil {
			return err
		}
		probe := filepath.Join(h.stateDir(), ".repaired")
		err := os.WriteFile(probe, nil, 0o600)
		if err == nil {
			return os.Remove(probe)
		}
		if !errors.Is(err, unix.EIO) || try == tries {
			return err
		}
		time.Sleep(rest)
	}
}

func (h *Host) stateDir() string { return filepath.Join(h.dir, "state") }

func (h *Host) ownDisk() error {
	if !h.disk {
		return errors.New("it has none of its own")
	}
	return nil
}

// demand makes a request without words of the file system at dir.
func demand(dir string, what uint) error {
	return control(dir, func(fd int) error { return unix.IoctlSetInt(fd, what, 0) })
}

// control makes a request of the file system at dir.
func control(dir string, ask func(fd int) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return ask(int(f.Fd()))
}

// removeDisks lets the disks below dir go on and takes them off.
func removeDisks(dir string) error {
	var all []error
	for _, at := range slices.Backward(mountsBelow(dir)) {
		_ = demand(at, fiThaw) // most are not stalled
		all = append(all, unix.Unmount(at, unix.MNT_DETACH))
	}
	return errors.Join(all...)
}

// mountsBelow lists what is mounted below dir, in the order it was mounted.
func mountsBelow(dir string) (at []string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		path, err := strconv.Unquote(`"` + fields[4] + `"`) // spaces are written \040
		if err == nil && strings.HasPrefix(path, dir+"/") {
			at = append(at, path)
		}
	}
	return at
}
