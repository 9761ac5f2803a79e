package kvstore

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// What pends must take about the memory that pendingBytes says, however few
// commands an entry brings.
func TestStore_Apply_PendingMemoryIsCounted(t *testing.T) {
	s, err := OpenStore(StoreConfig{History: engine.NewMemEngine(), Index: newIndex(t), Bodies: openBodies(t, t.TempDir(), time.Now)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 5000 {
		cmd := testPut(Key(fmt.Sprintf("key-%08d", i)), "00112233445566778899aabbccddeeff", "", make([]byte, 100), time.Unix(1, 0))
		if _, err := applyTo(s, uint64(i+1), 1, [][]byte{cmd}, nil); err != nil {
			t.Fatal(err)
		}
	}
	took, says := heap()-before, s.Stats().PendingBytes+s.Stats().OverlayBytes
	t.Logf("heap %d KiB, accounted %d KiB: %.1f times", took>>10, says>>10, float64(took)/float64(says))
	if took > 4*says {
		t.Errorf("what pends takes %d bytes, %d are counted", took, says)
	}
	runtime.KeepAlive(s)
}
