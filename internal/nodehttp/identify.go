package nodehttp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// IdentityPath is where the peer port of a database node says who it is.
const IdentityPath = "/oncekv/identity"

// Kind is a kind of what answers at a URL.
type Kind int

// The kinds. Nobody: no connection can be made, nothing answers in time, or a node does not
// answer to the name in the URL. Stranger: what answers is no node of oncekv.
const (
	Nobody Kind = iota
	Stranger
	PeerPort // of a database node, where only other database nodes belong
	Database
	Cache
	Admin
)

// Who is what answers at a URL.
type Who struct {
	Kind      Kind
	Name      string // empty if it tells none that is one
	ClientURL string // where clients reach it, if it is a PeerPort and says so
	Why       string // why it is Nobody, or a Stranger
}

// String says it in words that follow "is".
func (w Who) String() string {
	what := map[Kind]string{
		Nobody: "nobody's", Stranger: "not an oncekv node", PeerPort: "the peer port of a database node",
		Database: "where clients reach a database node", Cache: "a cache node", Admin: "an admin",
	}[w.Kind]
	switch {
	case w.Kind == Stranger && w.Why != "":
		return what + " (" + w.Why + ")"
	case w.Name != "" && w.Kind != Admin:
		return what + ", " + w.Name
	}
	return what
}

// NoDatabase is the sentence about a URL that should be the client URL of a database node and
// is not. It is empty for one that is.
func (w Who) NoDatabase(url string) string {
	switch {
	case w.Kind == Database:
		return ""
	case w.Kind == Nobody:
		return fmt.Sprintf("%s: %s", url, w.Why)
	case w.Kind == PeerPort && w.ClientURL != "":
		return fmt.Sprintf("%s is %s: use its client URL, %s", url, w, w.ClientURL)
	}
	return fmt.Sprintf("%s is %s: use the client URL of a database node, such as http://10.0.0.1:11000", url, w)
}

const (
	identifyTime = 2 * time.Second
	identityMax  = 1 << 20 // bytes
)

// Identify asks what answers at a URL, within 2 s. It is for sentences about settings, and not
// to be trusted: what answers may say anything.
func Identify(ctx context.Context, c *http.Client, url string) Who {
	ctx, cancel := context.WithTimeout(ctx, identifyTime)
	defer cancel()
	var said struct {
		Name      string `json:"name"`
		ID        string `json:"id"`
		Role      string `json:"role"`
		ClientURL string `json:"client_url"`
	}
	err := GetJSON(ctx, c, url+IdentityPath, identityMax, &said)
	if err == nil && said.ID != "" {
		client, _ := nodeurl.Parse(said.ClientURL)
		return Who{Kind: PeerPort, Name: checkedName(said.Name), ClientURL: client}
	}
	if silent(err) {
		return Who{Why: Reason(err)}
	}
	if err := GetJSON(ctx, c, url+"/stats", identityMax, &said); silent(err) {
		return Who{Why: Reason(err)}
	} else if err != nil {
		return Who{Kind: Stranger, Why: Reason(err)}
	}
	switch {
	case said.Role == "cache":
		return Who{Kind: Cache, Name: checkedName(said.Name)}
	case said.Role == "admin":
		return Who{Kind: Admin}
	case said.Role != "" && said.ID != "":
		return Who{Kind: Database, Name: checkedName(said.Name)}
	}
	return Who{Kind: Stranger}
}

// silent reports whether an error says that nobody is there, or not yet, or is too busy, or
// goes by another name.
func silent(err error) bool {
	var op *net.OpError
	var timeout net.Error
	var status *StatusError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &timeout) && timeout.Timeout() ||
		errors.As(err, &status) && (status.Status >= 500 || status.Status == http.StatusTooManyRequests || status.Status == http.StatusMisdirectedRequest)
}

func checkedName(name string) string {
	if nodeurl.CheckName(name) != nil {
		return ""
	}
	return name
}
