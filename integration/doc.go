// Package integration holds the cases that need whole clusters of real processes: what happens
// when they are killed, grown, wiped, or given a damaged disk, and whether the usual tools
// (the go command, a Procfile runner) work against them. A browser goes through the admin's
// page; `go test -run Browser -artifacts` keeps its pictures of every view.
//
// Cases that need root, gigabytes or another program run only when ONCEKV_TEST_FULL=1 is set,
// as the continuous integration does.
package integration
