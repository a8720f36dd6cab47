package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// platter is what a member's disk holds for good.
type platter struct {
	hs    *raftpb.HardState
	snap  *raftpb.Snapshot
	ents  []*raftpb.Entry
	files map[string][]byte
}

// save writes what an append holds.
func (p *platter) save(hs *raftpb.HardState, snap *raftpb.Snapshot, ents []*raftpb.Entry) {
	if snap != nil {
		p.snap, p.ents = snap, nil
	}
	if len(ents) > 0 {
		first := ents[0].GetIndex()
		at := slices.IndexFunc(p.ents, func(e *raftpb.Entry) bool { return e.GetIndex() >= first })
		if at < 0 {
			at = len(p.ents)
		}
		p.ents = append(p.ents[:at:at], ents...)
	}
	if hs != nil {
		p.hs = hs
	}
}

// item is one thing the apply side has to do.
type item struct {
	apply   *consensus.Apply
	restore *raftpb.Snapshot
}

// member is one manager: a disk that stays and a life that ends with a crash.
type member struct {
	w     *World
	id    uint64
	blind bool
	disk  platter
	life  int

	core    *consensus.Core // nil while down
	applier *consensus.Applier
	machine machine
	storage *raft.MemoryStorage
	appends []*consensus.Append // not durable yet
	applies []item
	stall   int // the step until which the disk hangs
	downTo  int // the step at which it comes back
	lastAt  uint64
}

// newMember makes a member that begins with an empty snapshot at index 1, as
// consensus.Bootstrap does; with no voters it is a learner with nothing.
func newMember(w *World, raftID uint64, voters []uint64, blind bool) *member {
	m := &member{w: w, id: raftID, blind: blind, disk: platter{hs: &raftpb.HardState{}, files: map[string][]byte{}}}
	if len(voters) > 0 {
		var file bytes.Buffer
		if err := store.New().Snapshot().Encode(&file); err != nil {
			w.fail("encode the empty state: %v", err)
		}
		man := &logv1.Manifest{Format: consensus.ManifestFormat, File: "first", Cluster: w.cluster.Bytes(), History: w.history.Bytes()}
		m.disk.files["first"] = file.Bytes()
		m.disk.snap = snapshot(man, 1, 1, &raftpb.ConfState{Voters: voters, AutoLeave: new(false)})
		m.disk.hs = &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}
	}
	m.boot()
	return m
}

func snapshot(man *logv1.Manifest, term, index uint64, conf *raftpb.ConfState) *raftpb.Snapshot {
	data, _ := proto.Marshal(man) // a manifest of the simulator always encodes
	return &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: conf}}
}

func (m *member) alive() bool { return m.core != nil }

// boot starts a life from what the disk holds.
func (m *member) boot() {
	w := m.w
	m.life++
	m.appends, m.applies, m.stall = nil, nil, 0
	m.storage = raft.NewMemoryStorage()
	m.machine = machine{Store: store.New(), w: w}
	fates := &consensus.Fates{}
	var mach consensus.Machine = m.machine
	if m.blind {
		mach = nil
	}
	m.applier = consensus.NewApplier(mach, w.ring, w.cluster, w.history, fates)
	hs := m.disk.hs
	if s := m.disk.snap; s != nil {
		if err := m.storage.ApplySnapshot(s); err != nil {
			w.fail("boot %d: %v", m.id, err)
		}
		m.restore(s)
		if hs.GetCommit() < s.GetMetadata().GetIndex() {
			hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(s.GetMetadata().GetIndex())}
		}
	}
	m.lastAt = m.applier.Index()
	if err := m.storage.Append(m.disk.ents); err != nil {
		w.fail("boot %d: %v", m.id, err)
	}
	_ = m.storage.SetHardState(hs) // storage in memory gives no error
	salt := rand.NewChaCha8([32]byte{byte(m.id), byte(m.life)})
	core, err := consensus.NewCore(consensus.CoreConfig{
		RaftID: m.id, Cluster: w.cluster, History: w.history, Ring: w.ring, Storage: m.storage,
		Applied: m.applier.Index(), ElectionTicks: 12, ContactTicks: 40, Blind: m.blind,
		Rand: rand.New(rand.NewPCG(w.rng.Uint64(), m.id)), Salt: salt, Incarnation: uint64(m.life),
		Fates: fates, Log: w.log,
	})
	if err != nil {
		w.fail("boot %d: %v", m.id, err)
		return
	}
	m.core = core
}

func (m *member) restore(s *raftpb.Snapshot) {
	man, err := consensus.ParseManifest(s)
	if err != nil {
		m.w.fail("restore %d: %v", m.id, err)
		return
	}
	file, ok := m.disk.files[man.GetFile()]
	if !ok {
		m.w.fail("member %d has no file %s", m.id, man.GetFile())
		return
	}
	if err := m.applier.Restore(s, bytes.NewReader(file)); err != nil {
		m.w.fail("restore %d: %v", m.id, err)
	}
}

// crash ends a life. Of the appends that were on their way a part, in order,
// may have reached the disk; of the last of them, a part of its entries.
func (m *member) crash(back int) {
	n := m.w.rng.IntN(len(m.appends) + 1)
	for _, a := range m.appends[:n] {
		m.disk.save(a.HardState, a.Snapshot, a.Entries)
	}
	if n < len(m.appends) {
		if a := m.appends[n]; a.Snapshot == nil && len(a.Entries) > 0 {
			m.disk.save(nil, nil, a.Entries[:m.w.rng.IntN(len(a.Entries)+1)])
		}
	}
	m.core, m.downTo = nil, m.w.now+back
	m.w.Crashes++
}

// receive takes a message from the network.
func (m *member) receive(p packet) {
	if p.msg.GetType() == raftpb.MsgSnap {
		man, err := consensus.ParseManifest(p.msg.GetSnapshot())
		if err != nil {
			m.w.fail("receive: %v", err)
			return
		}
		m.disk.files[man.GetFile()] = p.file
	}
	m.core.Step(p.msg)
}

// work flushes the core and does some of what it asks for.
func (m *member) work() {
	if !m.alive() {
		return
	}
	out := m.core.Flush(m.w.clock)
	m.appends = append(m.appends, out.Append...)
	for _, a := range out.Apply {
		m.applies = append(m.applies, item{apply: a})
	}
	for _, msg := range out.Send {
		m.post(msg)
	}
	if m.w.now >= m.stall {
		m.write()
	}
	m.applySome()
	if out.Snapshot {
		m.takeSnapshot()
	}
}

func (m *member) post(msg *raftpb.Message) {
	if msg.GetType() != raftpb.MsgSnap {
		m.w.send(msg, nil)
		return
	}
	man, err := consensus.ParseManifest(msg.GetSnapshot())
	if err != nil {
		m.w.fail("send: %v", err)
		return
	}
	m.w.send(msg, m.disk.files[man.GetFile()])
}

// write makes some appends durable.
func (m *member) write() {
	n := len(m.appends)
	if m.w.faulty() && n > 0 {
		n = m.w.rng.IntN(n + 1)
	}
	for _, a := range m.appends[:n] {
		m.disk.save(a.HardState, a.Snapshot, a.Entries)
		if err := a.Store(m.storage); err != nil {
			m.w.fail("member %d: %v", m.id, err)
			return
		}
		if a.Snapshot != nil {
			m.applies = append(m.applies, item{restore: a.Snapshot})
		}
		for _, r := range a.Replies {
			m.w.send(r, nil)
		}
		m.core.Appended(a)
	}
	m.appends = m.appends[n:]
}

// applySome applies some of what is committed.
func (m *member) applySome() {
	n := len(m.applies)
	if m.w.faulty() && n > 0 {
		n = m.w.rng.IntN(n + 1)
	}
	for _, it := range m.applies[:n] {
		if it.restore != nil {
			m.restore(it.restore)
			m.lastAt = m.applier.Index()
			continue
		}
		var changes []consensus.Accepted
		for _, e := range it.apply.Entries {
			accepted, err := m.applier.Apply(e)
			if err != nil {
				m.w.fail("member %d: %v", m.id, err)
				return
			}
			if accepted != nil {
				changes = append(changes, *accepted)
			}
		}
		m.core.Applied(it.apply, changes)
	}
	m.applies = m.applies[n:]
	if m.applier.Index() >= m.lastAt+m.w.opt.SnapshotEvery {
		m.takeSnapshot()
	}
}

// takeSnapshot writes a snapshot of now, and lets go of most of the log.
func (m *member) takeSnapshot() {
	at := m.applier.Index()
	if m.blind || at <= m.disk.snap.GetMetadata().GetIndex() || slices.ContainsFunc(m.appends, func(a *consensus.Append) bool { return a.Snapshot != nil }) {
		return
	}
	man := m.applier.Manifest(m.w.cluster, m.w.history)
	man.File = fmt.Sprintf("at-%d", at)
	var file bytes.Buffer
	if err := m.machine.Encode()(&file); err != nil {
		m.w.fail("encode: %v", err)
	}
	m.disk.files[man.GetFile()] = file.Bytes()
	data, _ := proto.Marshal(man)
	snap, err := m.storage.CreateSnapshot(at, m.applier.Conf(), data)
	if err != nil {
		return // a newer one came
	}
	m.disk.snap = snap
	m.disk.ents = slices.DeleteFunc(slices.Clone(m.disk.ents), func(e *raftpb.Entry) bool { return e.GetIndex() <= at })
	if at > 10 {
		_ = m.storage.Compact(at - 10) // it may be done already
	}
	m.lastAt = at
	m.w.Snapshots++
}
