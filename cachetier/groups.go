package cachetier

import (
	"sync"

	"github.com/golang/groupcache"
)

// groupcache keeps its groups, and the one function that finds a group's peers, in
// variables of its package, and panics when that function is set twice. Several cache
// nodes may live in one process (`oncekv dev`, tests), so this package sets it once and
// looks the picker up by the group's name, which is unique. This is the only state of
// the package.
var (
	registerPickers sync.Once
	pickers         sync.Map // name of a group → groupcache.PeerPicker
)

// newGroup makes a group that holds nothing and finds peers with picker. It panics in a
// process that has registered a picker of its own: groupcache has room for one.
func newGroup(name string, getter groupcache.GetterFunc, picker groupcache.PeerPicker) *groupcache.Group {
	registerPickers.Do(func() {
		groupcache.RegisterPerGroupPeerPicker(func(group string) groupcache.PeerPicker {
			if p, ok := pickers.Load(group); ok {
				return p.(groupcache.PeerPicker)
			}
			return groupcache.NoPeers{}
		})
	})
	pickers.Store(name, picker)
	return groupcache.NewGroup(name, 0, getter)
}

// forgetGroup drops the picker of a group that is no longer used. groupcache itself never
// forgets a group.
func forgetGroup(group *groupcache.Group) { pickers.Delete(group.Name()) }

// encoded is the groupcache.Sink of a load: the encoded record, or no bytes for a key
// that is not set.
//
// groupcache's own sinks copy what they are given, or give out copies, in case somebody
// changes it. Nobody changes an encoded record, and the copies cost more than all else
// that a load does: with AllocatingByteSliceSink, a cold read of 64 KiB took 50 % longer
// (173 → 259 µs), one from an owner 43 % (210 → 300 µs). What the embedded sink would
// hold for the group's own memory stays empty; groups hold nothing.
type encoded struct {
	groupcache.Sink
	raw []byte
}

// SetBytes keeps raw, which nobody may change any more.
func (e *encoded) SetBytes(raw []byte) error {
	e.raw = raw
	return nil
}
