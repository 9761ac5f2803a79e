package three

import "testing"

func TestBuild(t *testing.T) {
	if build(1).Floor() != 5 {
		t.Fail()
	}
}
