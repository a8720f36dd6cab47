package store

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/tidwall/btree"
)

// An order is one way to walk a table: the primary key or an index.
type order[T any] struct {
	// less orders every two different objects, ties broken by the primary key.
	less func(a, b T) bool
	// holds reports whether an object is in this order at all. Nil: all are.
	holds func(T) bool
	// rank is what less looks at first: what it ranks lower, less says is less. It is
	// kept beside the object in the tree, so a search follows a pointer, to memory
	// that no cache holds, only where ranks are equal. Nil: all are.
	rank func(T) uint64
}

// entry is an object in a tree.
type entry[T any] struct {
	rank uint64
	obj  T
}

func (o order[T]) entry(v T) entry[T] {
	if o.rank == nil {
		return entry[T]{obj: v}
	}
	return entry[T]{rank: o.rank(v), obj: v}
}

// before orders entries.
func (o order[T]) before(a, b entry[T]) bool {
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return o.less(a.obj, b.obj)
}

// rankOf is the rank of what is ordered by bytes first: the first eight of them, zeros
// for those there are not.
func rankOf(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	var head [8]byte
	copy(head[:], b)
	return binary.BigEndian.Uint64(head[:])
}

// A table keeps the objects of one kind in a copy-on-write tree per order, the
// primary one first. A table that was published is only read; fork gives one to
// write to, at the cost of a few words.
//
// Invariant: an object is in the tree of each order that holds it, once.
type table[T any] struct {
	orders []order[T]
	trees  []*btree.BTreeG[entry[T]]
}

func newTable[T any](orders ...order[T]) table[T] {
	t := table[T]{orders: orders}
	for _, o := range orders {
		// Readers share trees that nobody writes, so the tree's own lock is for
		// nothing. Who writes copies each node on the way: half the usual degree is a
		// tenth of the processor time of a small transaction less.
		t.trees = append(t.trees, btree.NewBTreeGOptions(o.before, btree.Options{Degree: 16, NoLocks: true}))
	}
	return t
}

// fork returns a table to write to; t stays as it is. Two forks of one table are
// not made at once (the tree renumbers itself), but readers of t go on meanwhile.
func (t table[T]) fork() table[T] {
	f := table[T]{orders: t.orders, trees: slices.Clone(t.trees)}
	for i, tree := range f.trees {
		f.trees[i] = tree.IsoCopy()
	}
	return f
}

// len returns the number of objects.
func (t table[T]) len() int { return t.trees[0].Len() }

// get returns the object whose primary key is probe's.
func (t table[T]) get(probe T) (T, bool) {
	e, ok := t.trees[0].Get(t.orders[0].entry(probe))
	return e.obj, ok
}

// min returns the first object of an order.
func (t table[T]) min(by int) (T, bool) {
	e, ok := t.trees[by].Min()
	return e.obj, ok
}

// set puts v in the place of the object with its primary key.
func (t table[T]) set(v T) (old T, had bool) {
	lay(v)
	was, had := t.trees[0].Set(t.orders[0].entry(v))
	old = was.obj
	if had {
		lift(old)
	}
	for i, o := range t.orders[1:] {
		tree := t.trees[i+1]
		if had && o.contains(old) && (!o.contains(v) || o.less(old, v) || o.less(v, old)) {
			tree.Delete(o.entry(old))
		}
		if o.contains(v) {
			tree.Set(o.entry(v))
		}
	}
	return old, had
}

// delete removes the object whose primary key is probe's.
func (t table[T]) delete(probe T) (old T, had bool) {
	was, had := t.trees[0].Delete(t.orders[0].entry(probe))
	if !had {
		return old, false
	}
	lift(was.obj)
	for i, o := range t.orders[1:] {
		if o.contains(was.obj) {
			t.trees[i+1].Delete(o.entry(was.obj))
		}
	}
	return was.obj, true
}

func (o order[T]) contains(v T) bool { return o.holds == nil || o.holds(v) }

// all walks the table by its primary key.
func (t table[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		t.trees[0].Scan(func(e entry[T]) bool { return yield(e.obj) })
	}
}

// run walks one order from the first object not less than from for as long as in
// holds.
func (t table[T]) run(by int, from T, in func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		t.trees[by].Ascend(t.orders[by].entry(from), func(e entry[T]) bool { return in(e.obj) && yield(e.obj) })
	}
}
