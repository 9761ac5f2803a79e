package client

import (
	"errors"

	"github.com/Focinfi/oncekv/api"
)

// What calls take and return is defined in package api, which also has the names of
// headers, problem types and media types.
type (
	Record     = api.Record
	Change     = api.Change
	PutAnswer  = api.PutAnswer
	Problem    = api.Problem
	History    = api.History
	Origin     = api.Origin
	Position   = api.Position
	Member     = api.Member
	Members    = api.Members
	AddMember  = api.AddMember
	Stats      = api.Stats
	DBNode     = api.DBNode
	CacheNode  = api.CacheNode
	CacheStats = api.CacheStats
)

// The values of PutResult.Status.
const (
	BatchCreated   = api.BatchCreated
	BatchUnchanged = api.BatchUnchanged
	BatchConflict  = api.BatchConflict
	BatchInvalid   = api.BatchInvalid
)

// Roles of a member.
const (
	RoleLeader   = api.RoleLeader
	RoleFollower = api.RoleFollower
	RoleLearner  = api.RoleLearner
	RoleVoter    = api.RoleVoter
)

// The kinds of failure; api says what each means. errors.Is works with them on every
// error of this package.
var (
	ErrInvalid        = api.ErrInvalid
	ErrDigestMismatch = api.ErrDigestMismatch
	ErrNotFound       = api.ErrNotFound
	ErrConflict       = api.ErrConflict
	ErrExists         = api.ErrExists
	ErrGone           = api.ErrGone
	ErrHistoryChanged = api.ErrHistoryChanged
	ErrRefused        = api.ErrRefused
	ErrTooLarge       = api.ErrTooLarge
	ErrOverloaded     = api.ErrOverloaded
	ErrUnavailable    = api.ErrUnavailable
	ErrOutcomeUnknown = api.ErrOutcomeUnknown
	ErrDiskReserve    = api.ErrDiskReserve
	ErrServer         = api.ErrServer
)

// ErrNobodyListens is the Cause of a RequestError that Config.FailRefused ended.
var ErrNobodyListens = errors.New("nothing listens there")

// ParsePosition reads what Position.String returns.
func ParsePosition(text string) (Position, error) { return api.ParsePosition(text) }
