package httpapi_test

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/httpapi"
)

// BenchmarkParsePut is the work that one line costs before it is put. Lines differ,
// since a decoder may keep the strings that it saw last.
func BenchmarkParsePut(b *testing.B) {
	const lines = 1000
	for _, encoding := range []string{"", api.EncodingBase64} {
		all := make([][]byte, lines)
		for i := range all {
			value := fmt.Sprintf("%256d", i)
			if encoding != "" {
				value = base64.StdEncoding.EncodeToString([]byte(value))
			}
			line, err := json.Marshal(api.PutDocument{Key: new(fmt.Sprintf("%032d", i)), Value: &value, Encoding: encoding})
			if err != nil {
				b.Fatal(err)
			}
			all[i] = line
		}
		b.Run(cmp.Or(encoding, "text"), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := httpapi.ParsePut(all[i%lines]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
