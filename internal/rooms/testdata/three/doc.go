// Package three has a list of its files, one reference downward, one upward, and one
// line that goes on.
//
// Rooms:
//
//	top.go, middle.go  two of them
//	                   bottom.go is not listed by this line
//	bottom.go          the third
//	other.go           not built here
package three
