package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// A system is what is measured: its processes, and the cases that it supports.
type system struct {
	name  string
	dir   string // data of all nodes, in a directory for each name
	nodes []*process
	tasks map[string]task // by the name of the case
	close func()          // closes its clients; nil: no clients
	url   string          // URL of its first node, if that speaks HTTP

	oncekv *oncekv // nil for the others
}

// task is one case of a system: a loop of requests, or a number of keys to put.
type task struct {
	open opener

	bulk    bulk
	workers int // of bulk: how many things it does at a time
}

// opener makes the operation of one worker for a round, and a function that closes it.
type opener func(ctx context.Context, s session, worker int) (operation, func(), error)

// session is one round of one case.
type session struct {
	tag   uint16 // unique among the sessions of a store
	value []byte
	known func(random *rand.Rand) string // one of the keys that are set

	given func() string // the keys to put, for setting up; nil: fresh ones
}

// stop kills everything of the system at once: nobody needs it any more.
func (s *system) stop() {
	if s.close != nil {
		s.close()
	}
	var stops sync.WaitGroup
	for _, p := range s.nodes {
		stops.Go(p.finish)
	}
	stops.Wait()
}

// residentBytes returns the memory of the largest node.
func (s *system) residentBytes() int64 { return largest(s.nodes, (*process).residentBytes) }

// written returns how many bytes all nodes have written.
func (s *system) written() int64 {
	var all int64
	for _, p := range s.nodes {
		all += p.written()
	}
	return all
}

// ended returns an error if a node has ended by itself.
func (s *system) ended() error {
	for _, p := range s.nodes {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

func largest(of []*process, figure func(*process) int64) int64 {
	var most int64
	for _, p := range of {
		most = max(most, figure(p))
	}
	return most
}

// keyBytes is the length of all keys.
const keyBytes = 32

// key returns a worker's n-th key in a session. All keys differ, and they are not in order.
func (s session) key(worker int, n uint32) string {
	own := uint64(s.tag)<<48 | uint64(uint16(worker))<<32 | uint64(n)
	var key [keyBytes]byte
	hex(key[:keyBytes/2], scatter(own))
	hex(key[keyBytes/2:], own)
	return string(key[:])
}

func hex(to []byte, n uint64) {
	for i := range to {
		to[len(to)-1-i] = "0123456789abcdef"[n>>(4*i)&15]
	}
}

// scatter is the finalizer of splitmix64, by Steele, Lea and Flood.
func scatter(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fresh returns a worker's keys, one after the other.
func (s session) fresh(worker int) func() string {
	if s.given != nil {
		return s.given
	}
	var n uint32
	return func() string {
		n++
		return s.key(worker, n)
	}
}

// reads returns random keys that are set.
func (s session) reads() func() string {
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return func() string { return s.known(random) }
}

// program is what a system runs.
type program struct {
	pkg string
	dir string // module in which to build; empty: this one
}

// build builds the program in dir, unless it is there, and returns its path.
func (p program) build(ctx context.Context, dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, p.pkg)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", p.pkg, err, out)
	}
	return path, nil
}

// productDir returns oncekv's module, which is built with its own go.mod.
func productDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/Focinfi/oncekv").Output()
	if err != nil {
		return "", fmt.Errorf("find the module of oncekv (run this in bench/peers): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// place is where a system is started.
type place struct {
	bin     string // directory of built programs; empty: below dir
	dir     string // directory of the system's data
	clients int    // clients of each system; workers share them
	streams int    // concurrent streams of puts

	oncekv string   // its program; empty: build it
	serve  []string // more flags of its database nodes
	alone  bool     // one database node of oncekv, and no cache node
}

// starter starts a system.
type starter struct {
	name  string
	start func(ctx context.Context, p place) (*system, error)
}

var starters = []starter{{"ceiling", startCeiling}, {"oncekv", startOncekv}, {"etcd", startEtcd}, {"nats", startNATS}}

// startAll starts the named systems below the directory of the place. On an error it also
// returns those that it has started.
func startAll(ctx context.Context, at place, names []string) ([]*system, error) {
	dir := at.dir
	if at.bin == "" {
		at.bin = filepath.Join(dir, "bin")
	}
	if err := os.MkdirAll(at.bin, 0o700); err != nil {
		return nil, err
	}
	var all []*system
	for _, s := range starters {
		if !slices.Contains(names, s.name) {
			continue
		}
		at.dir = filepath.Join(dir, s.name)
		if err := os.Mkdir(at.dir, 0o700); err != nil {
			return all, err
		}
		say("building and starting %s\n", s.name)
		sys, err := s.start(ctx, at)
		if sys != nil {
			sys.dir = at.dir
			all = append(all, sys)
		}
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return all, nil
}

// run starts one more node of the system.
func (s *system) run(dir, name, path string, args ...string) error {
	p, err := startProcess(dir, name, path, args...)
	if err != nil {
		return err
	}
	s.nodes = append(s.nodes, p)
	return nil
}

var errSetAlready = errors.New("the key was set already")
