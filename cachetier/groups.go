package cachetier

import (
	"sync"

	"github.com/golang/groupcache"
)

// groupcache keeps its groups, and the one function that finds a group's
// peers, in variables of its package, and panics when that function is set
// twice. Several cache nodes live in one process (in `oncekv dev` and in
// tests), so this package sets it once and looks the picker up by the group's
// name, which is unique. These variables are the only state of the package;
// they mirror groupcache's and have no other reader.
var (
	registerPickers sync.Once
	pickersMu       sync.RWMutex
	pickers         = map[string]groupcache.PeerPicker{}
)

// newGroup makes a group whose peers are found by picker. A process that
// registered a picker of its own with groupcache panics here: groupcache has
// room for one.
func newGroup(name string, cacheBytes int64, getter groupcache.Getter, picker groupcache.PeerPicker) *groupcache.Group {
	registerPickers.Do(func() { groupcache.RegisterPerGroupPeerPicker(pickerOf) })
	pickersMu.Lock()
	pickers[name] = picker
	pickersMu.Unlock()
	return groupcache.NewGroup(name, cacheBytes, getter)
}

func pickerOf(group string) groupcache.PeerPicker {
	pickersMu.RLock()
	defer pickersMu.RUnlock()
	if p := pickers[group]; p != nil {
		return p
	}
	return groupcache.NoPeers{}
}

// forgetGroup drops the picker of a group that is used no more. groupcache
// itself never forgets a group.
func forgetGroup(name string) {
	pickersMu.Lock()
	defer pickersMu.Unlock()
	delete(pickers, name)
}
