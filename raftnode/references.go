package raftnode

import (
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
)

// references finds the bodies that entries refer to, and holds them.
type references struct {
	store *bodies.Store // nil: nothing refers to a body
	body  func(command []byte) (bodies.Ref, bool)
}

// ofCommand returns what a command refers to.
func (r references) ofCommand(data []byte) (ref bodies.Ref, ok bool) {
	if r.store == nil {
		return ref, false
	}
	ref, ok = r.body(data)
	return ref, ok && ref.Size > 0 && ref.Size <= bodies.MaxBytes // else it is none
}

// of returns what the commands of an entry refer to: nil for most entries.
func (r references) of(e *raftpb.Entry) (refs []bodies.Ref) {
	if r.store == nil || e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
		return nil
	}
	_, count, b, err := batchHead(e.Data)
	if err != nil {
		return nil
	}
	for range count {
		var c command
		if c, b, err = nextCommand(b); err != nil {
			return refs
		}
		if ref, ok := r.ofCommand(c.data); ok {
			refs = append(refs, ref)
		}
	}
	return refs
}

// release gives up one hold of each.
func (r references) release(refs []bodies.Ref) {
	for _, ref := range refs {
		r.store.Release(ref.Digest)
	}
}
