package httpapi

import (
	"net/http"

	"github.com/Focinfi/oncekv/api"
)

// hostShownBytes is what an answer repeats of a Host that is refused.
const hostShownBytes = 255

// misdirected refuses a request whose Host is not a name of the node; nil accepts it.
// Probes may use any name: they learn only that the node lives.
func misdirected(hosts Hosts, r *http.Request) *problem {
	if hosts.Allows(r.Host) {
		return nil
	}
	switch r.URL.Path {
	case pathLive, pathReady, pathPing:
		return nil
	}
	return newProblem(http.StatusMisdirectedRequest, api.ProblemMisdirected,
		"%q is not a name of this node. It answers to addresses, localhost, the names in the URLs of its flags and of the members, and those of --allowed-hosts (NAME, .SUFFIX for everything below a name, or * for any name). Any other name may belong to a web page that poses as the node",
		r.Host[:min(len(r.Host), hostShownBytes)])
}

// Guard checks Host and refuses web pages of other origins, for handlers of other
// packages. Every handler that this package makes does both.
func Guard(next http.Handler, hosts Hosts) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := unwelcome(hosts, crossOrigin, r); p != nil {
			p.with("Connection", "close").write(w) // rather than read the body, which may never come
			return
		}
		next.ServeHTTP(w, r)
	})
}

// unwelcome refuses a request by its Host or its origin; nil accepts it.
func unwelcome(hosts Hosts, crossOrigin *http.CrossOriginProtection, r *http.Request) *problem {
	if p := misdirected(hosts, r); p != nil {
		return p
	}
	if crossOrigin.Check(r) != nil {
		return newProblem(http.StatusForbidden, api.ProblemForbidden,
			"a web page of another origin may not change anything here: a key that is set stays set")
	}
	if originRepeated(r) {
		return newProblem(http.StatusForbidden, api.ProblemForbidden,
			"the request has Origin or Sec-Fetch-Site more than once, so it is not clear where it comes from; send each once, or not at all")
	}
	return nil
}

// originRepeated reports whether a request that may change something has one of the
// headers of its origin twice: http.CrossOriginProtection looks at the first alone.
func originRepeated(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return len(r.Header["Origin"]) > 1 || len(r.Header["Sec-Fetch-Site"]) > 1
}
