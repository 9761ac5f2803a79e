package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// raftAttacks come from a stranger on the peer port, who knows what anybody may ask there: the
// ids of all members and of their cluster.
func raftAttacks() []attack {
	liar := func(lies func(p *peers) []raftpb.Message) func(*attacker) {
		return func(a *attacker) {
			p := a.learn()
			for _, m := range lies(p) {
				p.tell(m)
			}
			a.hold()
		}
	}
	return []attack{
		{name: "raft-term", quick: true, run: liar((*peers).absurdTerms)},
		{name: "raft-commit", run: liar((*peers).absurdCommits)},
		{name: "raft-sender", run: liar((*peers).strangeSenders)},
		{name: "raft-entries", run: liar((*peers).absurdEntries)},
		{name: "raft-answers", run: liar((*peers).absurdAnswers)},
		{name: "raft-proposals", run: liar((*peers).absurdProposals)},
		{name: "raft-snapshots", run: liar((*peers).absurdSnapshots)},
		{name: "raft-rubbish", run: raftRubbish},
		{name: "raft-streams", run: raftStreams},
		{name: "raft-remotes", run: raftRemotes},
		{name: "peer-requests", run: peerRequests},
	}
}

// peers is what a stranger knows of the members.
type peers struct {
	a       *attacker
	cluster uint64
	ids     []uint64 // of w.DBs
	term    uint64
	commit  uint64
}

// learn asks every member who it is.
func (a *attacker) learn() *peers {
	a.t.Helper()
	p := &peers{a: a}
	for _, d := range a.w.DBs {
		var who struct {
			ID        string
			ClusterID string `json:"cluster_id"`
		}
		_, body, err := fetch(a.ctx, "http://"+d.Peer+"/oncekv/identity")
		if err == nil {
			err = json.Unmarshal(body, &who)
		}
		id, idErr := types.IDFromString(who.ID)
		cluster, clusterErr := types.IDFromString(who.ClusterID)
		if err != nil || idErr != nil || clusterErr != nil {
			a.t.Fatalf("learn who %s is: %v, %v, %v: %s", d.Name, err, idErr, clusterErr, body)
		}
		p.ids, p.cluster = append(p.ids, uint64(id)), uint64(cluster)
		s, err := d.Stats()
		if err != nil {
			a.t.Fatal(err)
		}
		p.term, p.commit = max(p.term, s.Term), max(p.commit, s.CommitIndex)
	}
	return p
}

// tell posts a message to its receiver, or to everybody. The node may answer anything, but
// must survive.
func (p *peers) tell(m raftpb.Message) {
	body, err := m.Marshal()
	if err != nil {
		p.a.t.Fatalf("marshal %v: %v", m.Type, err)
	}
	for i, d := range p.a.w.DBs {
		if m.To == 0 || m.To == p.ids[i] {
			if m.To == 0 {
				to := m
				to.To = p.ids[i]
				if body, err = to.Marshal(); err != nil {
					p.a.t.Fatalf("marshal %v: %v", m.Type, err)
				}
			}
			p.post(d, m.From, body)
		}
	}
}

func (p *peers) post(d *clustertest.Process, from uint64, body []byte) {
	ctx, cancel := context.WithTimeout(p.a.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.Peer+"/raft", bytes.NewReader(body))
	if err != nil {
		p.a.t.Fatal(err)
	}
	for name, value := range p.headers(from) {
		req.Header.Set(name, value)
	}
	resp, err := lonely.Do(req)
	if err != nil {
		return // a dead node is for others to find
	}
	_ = resp.Body.Close()
}

// headers returns the headers that rafthttp expects.
func (p *peers) headers(from uint64) map[string]string {
	return map[string]string{
		"Content-Type":          "application/protobuf",
		"X-Server-From":         types.ID(from).String(),
		"X-Server-Version":      version.Version,
		"X-Min-Cluster-Version": version.MinClusterVersion,
		"X-Etcd-Cluster-ID":     types.ID(p.cluster).String(),
	}
}

// absurdNumbers are terms that no cluster ever reaches.
func absurdNumbers() []uint64 {
	return []uint64{math.MaxUint64, math.MaxUint64 - 1, 1 << 63, math.MaxInt64, 1 << 56, 1 << 48}
}

// everyType returns every kind of message between members.
func everyType() []raftpb.MessageType {
	var all []raftpb.MessageType
	for n := range raftpb.MessageType_name {
		all = append(all, raftpb.MessageType(n))
	}
	return all
}

func (p *peers) absurdTerms() (lies []raftpb.Message) {
	for _, term := range absurdNumbers() {
		for _, t := range everyType() {
			for _, from := range p.ids {
				lies = append(lies, raftpb.Message{Type: t, From: from, Term: term, Index: p.commit, LogTerm: p.term})
			}
		}
	}
	return lies
}

func (p *peers) absurdCommits() (lies []raftpb.Message) {
	for _, commit := range append(absurdNumbers(), p.commit+1_000_000) {
		for _, from := range p.ids {
			for _, term := range []uint64{p.term, p.term + 1} {
				lies = append(lies,
					raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, Term: term, Commit: commit},
					raftpb.Message{Type: raftpb.MsgApp, From: from, Term: term, Index: p.commit, LogTerm: p.term, Commit: commit},
					raftpb.Message{Type: raftpb.MsgApp, From: from, Term: term, Index: commit, LogTerm: p.term, Commit: commit})
			}
		}
	}
	return lies
}

// strangeSenders returns messages from nobody, for somebody else, and from the receiver
// itself.
func (p *peers) strangeSenders() (lies []raftpb.Message) {
	for _, t := range everyType() {
		for _, from := range []uint64{0, 1, 0xdeadbeef, math.MaxUint64, math.MaxUint64 - 1} {
			lies = append(lies, raftpb.Message{Type: t, From: from, Term: p.term, Index: p.commit, Commit: p.commit},
				raftpb.Message{Type: t, From: from, Term: p.term + 1, Index: p.commit, LogTerm: p.term, Commit: p.commit})
		}
		for _, id := range p.ids {
			lies = append(lies, raftpb.Message{Type: t, From: id, To: id, Term: p.term, Index: p.commit, Commit: p.commit})
		}
	}
	for i := range p.ids { // meant for one, told another
		for _, t := range everyType() {
			m := raftpb.Message{Type: t, From: p.ids[(i+1)%3], To: p.ids[(i+2)%3], Term: p.term, Index: p.commit}
			body, err := m.Marshal()
			if err != nil {
				p.a.t.Fatal(err)
			}
			p.post(p.a.w.DBs[i], m.From, body)
		}
	}
	return lies
}

func (p *peers) absurdEntries() (lies []raftpb.Message) {
	last, term := p.commit, p.term
	for name, entries := range map[string][]raftpb.Entry{
		"a gap":               {{Index: last + 5, Term: term}, {Index: last + 9, Term: term}},
		"backwards":           {{Index: last + 2, Term: term}, {Index: last + 1, Term: term}},
		"the same twice":      {{Index: last + 1, Term: term}, {Index: last + 1, Term: term}},
		"below the commit":    {{Index: 1, Term: term + 1, Data: []byte("rubbish")}},
		"index 0":             {{Index: 0, Term: term}},
		"the last index":      {{Index: math.MaxUint64, Term: term}},
		"a term from after":   {{Index: last + 1, Term: math.MaxUint64 - 1}},
		"a term from nowhere": {{Index: last + 1, Term: 0}},
		"no such type":        {{Index: last + 1, Term: term, Type: 99}},
	} {
		for _, from := range p.ids {
			for _, prev := range []uint64{0, last, last + 4, math.MaxUint64 - 1} {
				lies = append(lies, raftpb.Message{Type: raftpb.MsgApp, From: from, Term: term, Index: prev, LogTerm: term, Entries: entries, Commit: last, Context: []byte(name)})
			}
		}
	}
	huge := make([]byte, 7<<20)
	for _, from := range p.ids {
		lies = append(lies, raftpb.Message{Type: raftpb.MsgApp, From: from, Term: term, Index: last + 100, LogTerm: term, Entries: []raftpb.Entry{{Index: last + 101, Term: term, Data: huge}}})
	}
	return lies
}

func (p *peers) absurdAnswers() (lies []raftpb.Message) {
	for _, t := range []raftpb.MessageType{raftpb.MsgAppResp, raftpb.MsgHeartbeatResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp, raftpb.MsgReadIndexResp, raftpb.MsgReadIndex, raftpb.MsgSnapStatus, raftpb.MsgUnreachable, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow} {
		for _, index := range append(absurdNumbers(), 0, p.commit+10_000) {
			for _, from := range p.ids {
				lies = append(lies,
					raftpb.Message{Type: t, From: from, Term: p.term, Index: index, Context: []byte("rubbish"), Entries: []raftpb.Entry{{Data: []byte("12345678")}}},
					raftpb.Message{Type: t, From: from, Term: p.term, Index: index, Reject: true, RejectHint: index, LogTerm: index})
			}
		}
	}
	return lies
}

func (p *peers) absurdProposals() (lies []raftpb.Message) {
	change, err := (&raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode, NodeID: 0}, {Type: raftpb.ConfChangeRemoveNode, NodeID: math.MaxUint64}}, Context: []byte("rubbish")}).Marshal()
	if err != nil {
		p.a.t.Fatal(err)
	}
	random := make([]byte, 4096)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	entries := []raftpb.Entry{{Data: []byte("rubbish")}, {Data: random}, {Data: []byte{0}}, {Data: []byte{1}}, {Data: []byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
		{Type: raftpb.EntryConfChange, Data: []byte("rubbish")}, {Type: raftpb.EntryConfChangeV2, Data: []byte("rubbish")}, {Type: raftpb.EntryConfChangeV2, Data: change}, {Type: 99, Data: random}}
	for _, e := range entries {
		for _, from := range append(p.ids, 0xdeadbeef) {
			lies = append(lies, raftpb.Message{Type: raftpb.MsgProp, From: from, Entries: []raftpb.Entry{e}}, raftpb.Message{Type: raftpb.MsgProp, From: from, Term: p.term, Entries: []raftpb.Entry{e}})
		}
	}
	return append(lies, raftpb.Message{Type: raftpb.MsgProp, From: p.ids[0]})
}

func (p *peers) absurdSnapshots() (lies []raftpb.Message) {
	for _, data := range [][]byte{nil, []byte("rubbish"), bytes.Repeat([]byte{0xff}, 1<<20)} {
		for _, index := range append(absurdNumbers(), 0, 1, p.commit, p.commit+1000) {
			for _, voters := range [][]uint64{nil, p.ids, {0xdeadbeef}} {
				m := raftpb.Message{Type: raftpb.MsgSnap, From: p.ids[index%3], Term: p.term, Snapshot: raftpb.Snapshot{Data: data, Metadata: raftpb.SnapshotMetadata{Index: index, Term: p.term, ConfState: raftpb.ConfState{Voters: voters}}}}
				lies = append(lies, m)
			}
		}
	}
	return lies
}

// raftRubbish posts what is not a message, and messages that are too large.
func raftRubbish(a *attacker) {
	p := a.learn()
	for _, d := range a.w.DBs {
		for n := range 200 {
			body := make([]byte, n*7)
			for i := range body {
				body[i] = byte(rand.Uint32())
			}
			p.post(d, p.ids[n%3], body)
		}
		p.post(d, p.ids[0], make([]byte, 64<<20))
	}
	for _, g := range a.peerTargets() { // chunked without an end, and announced without a body
		head := p.head("POST /raft HTTP/1.1", g, p.ids[0])
		a.open(8, g.addr, head+"Transfer-Encoding: chunked\r\n\r\n")
		a.open(8, g.addr, head+"Content-Length: 8388608\r\n\r\nx")
		a.open(8, g.addr, head+"Content-Length: 1099511627776\r\n\r\nx")
	}
	a.hold()
}

func (a *attacker) peerTargets() (targets []target) {
	for _, g := range a.w.targets(true) {
		if g.kind == peer {
			targets = append(targets, g)
		}
	}
	return targets
}

// head returns the first lines of a request on the peer port, without the empty one.
func (p *peers) head(line string, g target, from uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\r\nHost: %s\r\nOncekv-Cluster: %016x\r\n", line, g.addr, p.cluster)
	for name, value := range p.headers(from) {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	return b.String()
}

// raftStreams opens streams in the names of other members, which replace theirs, and reads
// nothing from them.
func raftStreams(a *attacker) {
	p := a.learn()
	for round := range 3 {
		for i, g := range a.peerTargets() {
			for _, from := range append(p.ids, 0xdeadbeef, 0) {
				for _, stream := range []string{"message", "msgappv2", "msgapp", "nothing"} {
					head := p.head(fmt.Sprintf("GET /raft/stream/%s/%s HTTP/1.1", stream, types.ID(from)), g, from)
					a.openDeaf(4, g.addr, head+"X-Raft-To: "+types.ID(p.ids[i]).String()+"\r\n\r\n")
					a.openDeaf(4, g.addr, head[:len(head)-round]) // half of a request
				}
			}
		}
		a.seen.rounds(1)
	}
	a.hold()
}

// raftRemotes tells nodes of false peers: they must not connect there.
func raftRemotes(a *attacker) {
	p := a.learn()
	sink := newSink(a)
	for i, g := range a.peerTargets() {
		for n, from := range []uint64{0xbad, 0xbad1, p.ids[(i+1)%3]} {
			urls := "X-PeerURLs: " + sink.url + "," + sink.url + fmt.Sprintf("\r\nX-Raft-To: %s\r\n", types.ID(p.ids[i]))
			a.open(1, g.addr, p.head(fmt.Sprintf("GET /raft/stream/message/%s HTTP/1.1", types.ID(from)), g, from)+urls+"\r\n")
			m := raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, To: p.ids[i], Term: p.term, Commit: uint64(n)}
			body, err := m.Marshal()
			if err != nil {
				a.t.Fatal(err)
			}
			a.open(1, g.addr, p.head("POST /raft HTTP/1.1", g, from)+urls+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
		}
	}
	a.hold()
	if n := sink.accepted(); n > 0 {
		a.fail("the peer port took X-PeerURLs from a stranger and connected there %d times", n)
	}
}

// peerRequests sends the peer port's other requests with rubbish.
func peerRequests(a *attacker) {
	p := a.learn()
	before, err := client.New(client.Config{Endpoints: clustertest.URLs(a.w.DBs...)})
	if err != nil {
		a.t.Fatal(err)
	}
	defer before.Close()
	long := strings.Repeat("x", 60_000)
	for _, g := range a.peerTargets() {
		for _, query := range []string{"", "index=", "index=-1", "index=1", "index=1&from=x&to=y", "index=0&from=18446744073709551615&to=0&since=-1&revision=99999999999999999999", "index=18446744073709551615", "index=1&" + long, "%zz", "index=1&from=1&to=18446744073709551615"} {
			got, err := a.request(g.addr, p.head("GET /oncekv/snapshot?"+query+" HTTP/1.1", g, p.ids[0])+"\r\n", 10*time.Second)
			if err == nil && got.status >= 500 && got.status != http.StatusServiceUnavailable {
				a.fail("%s: GET /oncekv/snapshot?%.40s is %v", g, query, got)
			}
		}
		for _, body := range []string{"", "{", "null", `{"op":"x"}`, `{"op":"add"}`, `{"op":"add","member":{"id":"0","name":"","peer_url":"x"}}`, `{"op":"remove","name":"nobody"}`, `{"op":"promote","name":"nobody"}`, `{"op":"transfer","name":"nobody"}`, `{"op":"add","member":{"id":"1","name":"` + strings.Repeat("n", 60_000) + `","peer_url":"http://127.0.0.1:1","client_url":"http://127.0.0.1:1"}}`, strings.Repeat("[", 60_000)} {
			_, _ = a.request(g.addr, p.head("POST /oncekv/members HTTP/1.1", g, p.ids[0])+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body), 15*time.Second)
		}
		for _, path := range []string{"/oncekv/identity?gone=" + long, "/oncekv/identity?gone=%00", "/oncekv/history", "/oncekv/history?position=-1", "/oncekv/history?position=18446744073709551615", "/oncekv/history?position=" + long, "/raft/snapshot", "/raft/probing", "/raft/", "/raft/stream", "/raft/stream/message/" + long, "/debug/pprof/", "/../../etc/passwd", "*"} {
			_, _ = a.request(g.addr, p.head("GET "+path+" HTTP/1.1", g, p.ids[0])+"\r\n", 5*time.Second)
		}
	}
	a.hold()
	members, err := before.Members(a.ctx)
	if err != nil || len(members.Members) != len(a.w.DBs) {
		a.fail("after rubbish on the peer port there are %d members, %v; want %d", len(members.Members), err, len(a.w.DBs))
	}
}

// sink is a server that nobody should contact. It counts who does.
type sink struct {
	url string
	ln  net.Listener
	n   chan int
}

func newSink(a *attacker) *sink {
	ln, err := net.Listen("tcp", clustertest.FreeAddr(a.t))
	if err != nil {
		a.t.Fatal(err)
	}
	s := &sink{url: "http://" + ln.Addr().String(), ln: ln, n: make(chan int, 1)}
	a.t.Cleanup(func() { _ = ln.Close() })
	go s.run()
	return s
}

func (s *sink) run() {
	n := 0
	for {
		c, err := s.ln.Accept()
		if err != nil {
			s.n <- n
			return
		}
		n++
		_ = c.Close()
	}
}

// accepted closes the sink and returns how many came.
func (s *sink) accepted() int {
	_ = s.ln.Close()
	return <-s.n
}
