// What the admin answers. Times are RFC 3339; counters are totals since the
// process began; rates are per second.

export type Level = 'ok' | 'warning' | 'critical' | 'unknown'
export type Role = 'leader' | 'follower' | 'learner'
export type NodeStatus = 'up' | 'starting' | 'down'

export interface Health {
  level: Level
  sentence: string
  problems: string[]
  voters: string // how many there are and how many may fail
}

export interface Rates {
  puts: number
  gets: number
  created: number
  conflicts: number
  absences: number
  errors: number
  hit_ratio: number | null
}

export interface Point extends Rates {
  time: string
  revision: number
}

export interface State {
  time: string
  version: string
  health: Health
  leader: string
  term: number
  stale: boolean
  revision: number
  keys: number
  value_bytes: number
  history: HistoryId | null // null while no node has told one
  level: Levels
  rates: Rates
  members: MemberState[]
  caches: CacheState[]
}

// The identity of what is stored: new whenever a cluster is formed, restored or
// forced, with where it went on from, oldest first.
export interface HistoryId {
  id: string
  parents?: { id: string; revision: number; head: string }[]
}

export interface Levels {
  store: number
  program: number
}

export interface MemberState {
  id: string
  name: string
  url: string
  peer_url: string
  role: Role
  status: NodeStatus
  since: string
  reason?: string // when it is not up
  healthy: boolean
  lag: number
  rates: { puts: number; gets: number }
  stats: DatabaseStats | null
}

export interface DatabaseStats {
  name: string
  id: string
  role: string
  leader: string
  term: number
  ready: boolean
  commit_index: number
  applied_index: number
  durable_index: number
  revision: number
  digest: string
  history?: HistoryId
  level: Levels
  keys: number
  value_bytes: number
  history_bytes: number
  index_bytes: number
  overlay_bytes: number
  pending_bytes: number
  open_uploads: number
  index?: IndexRuns // a node of an earlier version has none
  values?: ValueFiles // a node of an earlier version has none
  scrub?: Scrub
  puts: number
  created: number
  unchanged: number
  conflicts: number
  gets: number
  absences: number
  errors: number
  disk_free_bytes: number
  disk_low: boolean
  version: string
  uptime_seconds: number
}

// The index of keys: sorted runs, each with a filter.
export interface IndexRuns {
  runs: number
  keys: number
  filter_bits_per_key: number
  merged_bytes: number
  false_positives: number
  pauses: number
}

// The files that hold the bytes of large values, each once.
export interface ValueFiles {
  bodies: number
  live_bytes: number
  dead_bytes: number
  reclaimed_bytes: number
  segments: number
}

// How far a node is that reads all it keeps, and how the last time ended.
export interface Scrub {
  running: boolean
  fraction: number
  last_end?: string // absent before the first end
  last_took_seconds: number
  last_result?: string // "ok", or the damage
}

export interface CacheState {
  name: string
  url: string
  status: NodeStatus
  since: string
  reason?: string // when it is not up
  left?: boolean // it is down because somebody stopped it
  share: number
  rates: { gets: number; hit_ratio: number | null }
  stats: CacheStats | null
}

export interface CacheStats {
  name: string
  url: string
  role: string
  ready: boolean
  peers: number
  databases: number
  history?: HistoryId // in which it stands, without parents
  version: string
  uptime_seconds: number
  gets: number
  hits: number
  mirrored_hits: number
  peer_loads: number
  peer_errors: number
  peer_served: number
  database_loads: number
  absences: number
  hedges: number
  peer_hedges: number
  errors: number
  admissions: number
  unadmitted: number
  evictions: number
  history_moves: number
  history_drops: number
  items: number
  bytes: number
  mirrored_bytes: number
  limit_bytes: number
  peer_p50_seconds: number
  peer_p99_seconds: number
  database_p50_seconds: number
  database_p99_seconds: number
}

// A key in JSON: base64 when its bytes are not UTF-8.
export interface KeyName {
  key?: string
  key_base64?: string
}

export interface KeyRow extends KeyName {
  revision: number
  size: number
  sha256: string
  content_type: string
}

export interface KeysPage {
  keys: KeyRow[]
  next?: string
}

export interface Change extends KeyRow {
  time: string
}

export interface Member {
  id: string
  name: string
  peer_url: string
  client_url: string
  role: Role
  healthy: boolean
  applied_index: number
  revision: number
}

export interface Members {
  members: Member[]
  leader: string
  term: number
  stale?: boolean
}

export interface NewMember {
  id: string // the node's own, in hex: it makes one when it starts for the first time
  name: string
  peer_url: string
  client_url: string
  role: 'voter' | 'learner'
}

export interface Owner {
  name: string
  url: string
}
