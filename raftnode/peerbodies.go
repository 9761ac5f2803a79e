package raftnode

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/shortage"
)

// Bodies are pushed to members by those that received them from a client (pushes.go),
// and fetched by those that lack them (arrivals.go, and the state machine's Stage).

const (
	// pushRequestMax bounds the body of a request that pushes: pushBytes and frames.
	pushRequestMax = pushBytes + bodies.MaxBytes
	// pushTime bounds a request that pushes, as the peer port does.
	pushTime = peerBodyTotal
)

// refusesBodies returns the status with which this node refuses bodies of others now, 0 if
// it does not.
func (n *Node) refusesBodies() int {
	if n.cfg.LacksRoom != nil && n.cfg.LacksRoom() {
		return http.StatusInsufficientStorage
	}
	if st := n.cfg.Bodies.Stats(); st.DeadBytes > n.cfg.strays+st.LiveBytes {
		return http.StatusTooManyRequests
	}
	return 0
}

// takeBodies keeps what another member pushes, and answers what it asks for.
func (n *Node) takeBodies(w http.ResponseWriter, r *http.Request) {
	kept := func() {}
	if paced, ok := r.Body.(*pacedBody); ok {
		if !paced.reserve(bodies.MaxBytes) {
			http.Error(w, errBodyMemory.Error()+"; send it again", http.StatusServiceUnavailable)
			return
		}
		kept = paced.kept
	}
	answers, status, added, err := n.readPushes(http.MaxBytesReader(w, r.Body, pushRequestMax), kept)
	if err == nil && added {
		err = n.cfg.Bodies.Sync(r.Context())
		n.arrivals.arrived()
	}
	switch {
	case errors.Is(err, bodies.ErrFrame), errors.Is(err, io.ErrUnexpectedEOF):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case n.cfg.Bodies.Err() != nil, shortage.Is(err):
		n.logger.Debug("bodies of another member were not kept", "from", r.RemoteAddr, "err", err)
		http.Error(w, "this node cannot keep bodies now", http.StatusServiceUnavailable)
	case err != nil:
		status, sentence := bodyFailure(err)
		http.Error(w, sentence, status)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.WriteHeader(status)
		_, _ = w.Write(answers) // the other side sees a broken body
	}
}

// readPushes appends what is pushed, until its end, and calls kept after each part. It
// returns one answer for each frame, the status of all of them, and whether bodies have
// to be synced before they are sent.
func (n *Node) readPushes(r io.Reader, kept func()) (answers []byte, status int, added bool, err error) {
	store, refusal := n.cfg.Bodies, n.refusesBodies()
	status = http.StatusOK
	var buf []byte
	for len(answers) <= pushFrames {
		f, err := bodies.ReadFrame(r, buf)
		if err != nil || f.Kind == bodies.FrameEnd {
			return answers, status, added, err
		}
		answer := bodies.AnswerDurable
		if f.Kind == bodies.FrameAsk {
			if !store.Has(f.Ref.Digest) {
				answer = bodies.AnswerMissing
			}
		} else {
			if refusal == 0 {
				_, err := store.Append(f.Ref.Digest, f.Data)
				switch {
				case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
					refusal = http.StatusInsufficientStorage
				case err != nil:
					return answers, status, added, err
				}
			}
			if refusal != 0 {
				answer, status = bodies.AnswerRefused, refusal
			} else {
				added = true // or it is here, and may not be durable yet
			}
		}
		answers = append(answers, byte(answer))
		if f.Data != nil {
			buf = f.Data[:0]
		}
		kept()
	}
	return answers, status, added, fmt.Errorf("%w: more than %d frames", bodies.ErrFrame, pushFrames)
}

// pushTo sends pushes to a member.
func (n *Node) pushTo(ctx context.Context, url string, list []*push) ([]bodies.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, pushTime)
	defer cancel()
	body, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = w.CloseWithError(writePushes(w, list)) // never fails
	}()
	defer func() {
		_ = body.Close() // never fails
		<-written
	}()
	cluster := n.identity.Load().ClusterID
	resp, err := ask(ctx, n.pushClient, cluster, http.MethodPost, url+bodiesPath, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, max(1024, pushFrames)))
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusInsufficientStorage, http.StatusTooManyRequests:
	default:
		return nil, fmt.Errorf("%s answered %s: %s", url, resp.Status, said)
	}
	if len(said) != len(list) || !answeredBy(resp, cluster) {
		return nil, fmt.Errorf("%s answered %d of %d bodies", url, len(said), len(list))
	}
	answers := make([]bodies.Answer, len(said))
	for i, b := range said {
		answers[i] = bodies.Answer(b)
		if answers[i] == bodies.AnswerRefused && resp.StatusCode == http.StatusTooManyRequests {
			answers[i] = answerBusy
		}
	}
	return answers, nil
}

func writePushes(w io.Writer, list []*push) error {
	for _, x := range list {
		var err error
		if x.ask {
			err = bodies.WriteAsk(w, x.ref())
		} else {
			err = bodies.WriteBody(w, x.body)
		}
		if err != nil {
			return err
		}
	}
	return bodies.WriteEnd(w)
}

// serveBodies sends the bodies that another member asks for, as far as they are here.
func (n *Node) serveBodies(w http.ResponseWriter, r *http.Request) {
	names := strings.Split(r.URL.Query().Get("digest"), ",")
	if len(names) > bodies.FetchMax {
		http.Error(w, fmt.Sprintf("more than %d digests", bodies.FetchMax), http.StatusBadRequest)
		return
	}
	digests := make([]bodies.Digest, len(names))
	for i, name := range names {
		raw, err := hex.DecodeString(name)
		if err != nil || len(raw) != len(digests[i]) {
			http.Error(w, "a digest is not 64 hex digits", http.StatusBadRequest)
			return
		}
		copy(digests[i][:], raw)
	}
	host := remoteHost(r)
	if !n.budget.take(host, bodies.MaxBytes) {
		http.Error(w, errBodyMemory.Error(), http.StatusServiceUnavailable)
		return
	}
	defer n.budget.give(host, bodies.MaxBytes)
	paced := newPacedWriter(w, pullIdle)
	defer paced.end()
	brokenOff := func(err error) {
		n.logger.Info("sending bodies broke off", "to", r.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler) // the receiver must see a broken body
	}
	var buf []byte
	for _, d := range digests {
		data, err := n.cfg.Bodies.Read(d, buf[:0])
		if errors.Is(err, bodies.ErrMissing) {
			continue
		}
		if err == nil {
			buf, err = data, bodies.WriteBody(paced, bodies.Body{Digest: d, Data: data})
		}
		if err != nil {
			brokenOff(err)
		}
	}
	if err := bodies.WriteEnd(paced); err != nil {
		brokenOff(err)
	}
}

// fetchBodies returns a Fetch that asks the member at a URL.
func fetchBodies(client *http.Client, cluster ID, url string) bodies.Fetch {
	return func(ctx context.Context, refs []bodies.Ref, each func(bodies.Body) error) error {
		if len(refs) == 0 {
			return nil
		}
		if len(refs) > bodies.FetchMax {
			return fmt.Errorf("one Fetch asks for %d bodies at most, not %d", bodies.FetchMax, len(refs))
		}
		asked := make(map[bodies.Ref]bool, len(refs))
		digests := make([]string, len(refs))
		for i, ref := range refs {
			digests[i], asked[ref] = ref.Digest.String(), true
		}
		body, err := fetchIdle(ctx, client, cluster, url+bodiesPath+"?digest="+strings.Join(digests, ","))
		if err != nil {
			return err
		}
		defer body.Close()
		for {
			f, err := bodies.ReadFrame(body, nil)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", url, err)
			case f.Kind == bodies.FrameEnd:
				return nil
			case f.Kind != bodies.FrameBody || !asked[f.Ref]:
				return fmt.Errorf("%s: %w: it was not asked for", url, bodies.ErrFrame)
			}
			delete(asked, f.Ref)
			if err := each(bodies.Body{Digest: f.Ref.Digest, Data: f.Data}); err != nil {
				return err
			}
		}
	}
}

// fetchMissing fetches bodies, durably, from the members that have them: from first, then
// from the others.
func (n *Node) fetchMissing(ctx context.Context, first ID, refs []bodies.Ref) error {
	ctx, cancel := context.WithTimeout(ctx, pushTime)
	defer cancel()
	store := n.cfg.Bodies
	var failed error
	for _, m := range n.sources(n.knownMembers(), first) {
		missing := slices.DeleteFunc(slices.Clone(refs), func(r bodies.Ref) bool { return store.Has(r.Digest) })
		if len(missing) == 0 {
			return nil
		}
		err := fetchBodies(n.client, n.identity.Load().ClusterID, m.PeerURL)(ctx, missing, func(b bodies.Body) error {
			_, err := store.Append(b.Digest, b.Data)
			return err
		})
		failed = errors.Join(failed, err)
		if err := store.Sync(ctx); err != nil {
			return err
		}
	}
	return failed
}

// pushIdle is how long a connection for pushes is kept: connections to a member that
// has gone without a word cost a request its time.
const pushIdle = 10 * time.Second
