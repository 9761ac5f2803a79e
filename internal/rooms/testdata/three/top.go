package three

// House is used from below, which is wrong, and from a test, which does not count.
type House struct{ floor floor }

// Floor uses a field of this file, and a method further down.
func (h House) Floor() int { return h.floor.number() + h.floor.count }
