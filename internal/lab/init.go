package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The variables by which a program started again knows that it is an init.
const (
	stageVariable = "SKEP_LAB_STAGE"
	specVariable  = "SKEP_LAB_SPEC"
)

// Init turns the calling program into a host's init if that is what it was
// started for, and then does not return; otherwise it does nothing. Programs
// that use a lab call it before anything else.
func Init() {
	stage := os.Getenv(stageVariable)
	if stage == "" {
		return
	}
	var s spec
	err := json.Unmarshal([]byte(os.Getenv(specVariable)), &s)
	if err == nil {
		switch stage {
		case "furnish":
			err = furnishAndExec(s)
		default:
			err = reign(s)
		}
	}
	if err != nil {
		answer, _ := json.Marshal(reply{Err: err.Error()})
		_, _ = unix.Write(controlFD, answer)
		os.Exit(1)
	}
	os.Exit(0)
}

// furnishAndExec is the first stage: it waits until the owner has put this
// process into its cgroups, makes the host's view of the machine, and starts
// the second stage in its place, still process 1. The second program is needed
// because a cgroup namespace belongs to a thread, and only exec makes this
// thread the whole process.
func furnishAndExec(s spec) error {
	runtime.LockOSThread()
	var one [1]byte
	if n, err := unix.Read(controlFD, one[:]); err != nil || n == 0 {
		return errors.New("the owner of the lab went away")
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := furnish(s); err != nil {
		return err
	}
	env := []string{stageVariable + "=reign", specVariable + "=" + os.Getenv(specVariable)}
	return unix.Exec("/proc/self/exe", []string{"lab-init"}, env)
}

// reign is the second stage: it plugs the wire in, says the host is up, and
// then starts, signals and reaps processes until the owner hangs up. Its end
// is the end of the host.
func reign(s spec) error {
	if err := plugIn(s); err != nil {
		return err
	}
	file := os.NewFile(controlFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	_ = file.Close()
	control, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("control socket is a %T", conn)
	}
	k := &king{control: control, children: map[int]uint64{}}
	go k.reap()
	k.answer(reply{})
	return k.serve()
}

// plugIn gives the host its loopback and its end of the wire as eth0.
func plugIn(s spec) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	link, err := netlink.LinkByName(s.Link)
	if err != nil {
		return fmt.Errorf("wire %s: %w", s.Link, err)
	}
	address, err := netlink.ParseAddr(s.Address)
	if err != nil {
		return fmt.Errorf("address %s: %w", s.Address, err)
	}
	if err := errors.Join(
		netlink.LinkSetName(link, "eth0"),
		netlink.AddrAdd(link, address),
		netlink.LinkSetUp(link),
	); err != nil {
		return fmt.Errorf("wire %s: %w", s.Link, err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(s.Gateway)}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route by %s: %w", s.Gateway, err)
	}
	return nil
}

// A king is process 1 of a host: parent of what the owner starts, and reaper
// of everything that loses its parent.
type king struct {
	control *net.UnixConn

	// mu guards children (by pid, the sequence to answer under) and orders a
	// child's start before its end: it is held across the fork, so that the
	// reaper cannot meet a child it does not know yet.
	mu       sync.Mutex
	children map[int]uint64
}

func (k *king) serve() error {
	data, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(3*4))
	for {
		n, oobn, _, _, err := k.control.ReadMsgUnix(data, oob)
		if err != nil || n == 0 {
			return nil // the owner hung up: the host ends
		}
		var r request
		if err := json.Unmarshal(data[:n], &r); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		streams := received(oob[:oobn])
		switch r.Op {
		case opSpawn:
			k.spawn(r, streams)
		case opSignal:
			k.answer(reply{Seq: r.Seq, Err: words(syscall.Kill(r.Pid, syscall.Signal(r.Signal)))})
		default:
			k.answer(reply{Seq: r.Seq, Err: "unknown operation " + r.Op})
		}
		for _, fd := range streams {
			_ = unix.Close(int(fd))
		}
	}
}

// received returns the file descriptors that came with a packet.
func received(oob []byte) (streams []uintptr) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			streams = append(streams, uintptr(fd))
		}
	}
	return streams
}

func (k *king) spawn(r request, streams []uintptr) {
	if len(streams) != 3 || len(r.Argv) == 0 {
		k.answer(reply{Seq: r.Seq, Err: "spawn: want a command and three streams"})
		return
	}
	path, err := lookPath(r.Argv[0])
	if err != nil {
		k.answer(reply{Seq: r.Seq, Err: err.Error()})
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	pid, err := syscall.ForkExec(path, r.Argv, &syscall.ProcAttr{
		Dir: "/", Env: r.Env, Files: streams, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil {
		k.children[pid] = r.Seq
	}
	k.answer(reply{Seq: r.Seq, Pid: pid, Err: words(err)})
}

// reap collects every child that ends and tells the owner of those it started.
func (k *king) reap() {
	ended := make(chan os.Signal, 1) // one is enough: each wake collects all
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			k.bury(pid, status)
		}
	}
}

func (k *king) bury(pid int, status syscall.WaitStatus) {
	k.mu.Lock()
	seq, ours := k.children[pid]
	delete(k.children, pid)
	k.mu.Unlock()
	if !ours {
		return
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	k.answer(reply{Seq: seq, Ended: true, Code: code})
}

// answer sends r; an owner that cannot be told is gone, and serve will see it.
func (k *king) answer(r reply) {
	data, err := json.Marshal(r)
	if err == nil {
		_, _ = k.control.Write(data)
	}
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
