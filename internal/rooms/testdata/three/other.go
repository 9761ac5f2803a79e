//go:build ignore

package three

var other = build(1)
