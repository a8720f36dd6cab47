package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the kernel's tick in /proc/PID/stat: 100 on every Linux that Go runs on.
const userHZ = 100

// A usage is what a process has used since it was started.
type usage struct {
	cpu     time.Duration
	peak    uint64 // bytes of resident memory at most, since the last mark
	rss     uint64 // bytes of resident memory now
	written uint64 // bytes it had the kernel write to disks
}

// usageOf reads a process's use of the machine from /proc.
func usageOf(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("%sstat: %d fields", dir, len(fields))
	}
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%sstat: %w", dir, err)
		}
		u.cpu += time.Duration(n) * time.Second / userHZ
	}
	if u.peak, err = number(dir+"status", "VmHWM:"); err != nil {
		return u, err
	}
	if u.rss, err = number(dir+"status", "VmRSS:"); err != nil {
		return u, err
	}
	u.peak, u.rss = u.peak<<10, u.rss<<10
	u.written, err = number(dir+"io", "write_bytes:")
	return u, err
}

// markPeak makes the peak begin anew.
func markPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// number reads the number behind a name in a file of names and numbers.
func number(file, name string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut("\n"+string(text), "\n"+name)
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		return 0, fmt.Errorf("%s: no %s", file, name)
	}
	return strconv.ParseUint(fields[0], 10, 64)
}
