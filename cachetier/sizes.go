package cachetier

import (
	"slices"
	"unsafe"

	"github.com/Focinfi/oncekv/kvstore"
)

// sizeClasses are the sizes in which Go's allocator hands out memory up to
// 32 KiB (runtime/sizeclasses.go): what is asked for is rounded up to one. Beyond
// it rounds up to pages.
var sizeClasses = [...]int64{8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480,
	512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376, 6144, 6528, 6784,
	6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672, 32768}

const pageBytes = 8 << 10

// allocated is the memory an allocation of n bytes takes.
func allocated(n int64) int64 {
	if n > sizeClasses[len(sizeClasses)-1] {
		return (n + pageBytes - 1) / pageBytes * pageBytes
	}
	i, _ := slices.BinarySearch(sizeClasses[:], n)
	if n == 0 {
		return 0
	}
	return sizeClasses[i]
}

// slotBytes is what a key takes in a map: its slot and control byte, and its
// part of the slots that a map keeps free, of which there are up to a half after
// it has grown.
const slotBytes = 48

// heldBytes is the memory a record takes while it is held, everything counted:
// the value, the encoding for other nodes, key and content type, the structs
// and its slot in the table.
func heldBytes(rec *record) int64 {
	v := rec.value
	n := slotBytes + allocated(int64(unsafe.Sizeof(held{}))) + allocated(int64(unsafe.Sizeof(record{}))) + allocated(int64(unsafe.Sizeof(kvstore.Value{})))
	n += allocated(int64(len(v.Key))) + allocated(int64(len(v.ContentType))) + allocated(int64(len(rec.raw)))
	n += allocated(int64(len(v.By))) + allocated(int64(v.UserMeta.Bytes()))
	if rec.streamed { // its bytes, if it has them, are not part of raw
		body, _ := v.Bytes()
		n += allocated(int64(len(body)))
	}
	if rec.sums != nil {
		n += rec.sums.heldBytes(v.Size)
	}
	return n
}
