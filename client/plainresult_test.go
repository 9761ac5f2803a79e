package client

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestReadPlainResult(t *testing.T) {
	for line, plain := range map[string]bool{
		`{"key":"a/ключ","status":"created","revision":7,"sha256":"ab","size":0}` + "\n":      true,
		`{"key":"a","status":"unchanged","revision":123456789,"sha256":"ab","size":3}`:        true,
		`{"key":"a","status":"conflict","revision":1,"sha256":"ab","size":3}`:                 false,
		`{"key":"a\"b","status":"created","revision":1,"sha256":"ab","size":3}`:               false,
		`{"key":"a","status":"created","revision":01,"sha256":"ab","size":3}`:                 false,
		`{"key":"a","status":"created","revision":1,"sha256":"ab","size":-3}`:                 false,
		`{"key":"a","status":"created","revision":1,"sha256":"ab","size":3,"x":1}`:            false,
		`{"key":"a","status":"created","revision":1,"sha256":"ab","size":3}{}`:                false,
		"{\"key\":\"\xff\",\"status\":\"created\",\"revision\":1,\"sha256\":\"\",\"size\":3}": false,
		``:   false,
		`{}`: false,
	} {
		if got := samePlain(t, []byte(line)); got != plain {
			t.Errorf("%s: taken %v, want %v", line, got, plain)
		}
	}
}

func FuzzReadPlainResult(f *testing.F) {
	f.Add([]byte(`{"key":"a","status":"created","revision":7,"sha256":"ab","size":0}`))
	f.Fuzz(func(t *testing.T, line []byte) { samePlain(t, line) })
}

// samePlain reports whether readPlainResult takes a line. Then encoding/json must
// read the same.
func samePlain(t *testing.T, line []byte) bool {
	t.Helper()
	var got, want api.BatchResult
	if !readPlainResult(line, &got) {
		return false
	}
	if err := json.Unmarshal(line, &want); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%q is %+v, encoding/json says %+v %v", line, got, want, err)
	}
	return true
}
