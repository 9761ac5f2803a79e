// Made-up nodes and states for tests.
import type { CacheState, CacheStats, DatabaseStats, MemberState, Rates, State } from './types'

export const noon = new Date(2026, 0, 5, 12, 3, 11).getTime()

export const historyId = '00112233445566778899aabbccddeeff'

export function databaseStats(some: Partial<DatabaseStats> = {}): DatabaseStats {
  return {
    name: 'n1', id: '1f', role: 'follower', leader: 'n1', term: 4, ready: true,
    commit_index: 120, applied_index: 118, durable_index: 110, revision: 90, digest: '',
    history: { id: historyId }, level: { store: 1, program: 1 },
    keys: 90, value_bytes: 4096, history_bytes: 8192, index_bytes: 2048, overlay_bytes: 0, pending_bytes: 0,
    open_uploads: 0,
    values: { bodies: 12, live_bytes: 6144, dead_bytes: 1024, reclaimed_bytes: 3072, segments: 1 },
    scrub: { running: false, fraction: 0, last_end: new Date(noon - 2 * 3600_000).toISOString(), last_took_seconds: 90, last_result: 'ok' },
    puts: 0, created: 0, unchanged: 0, conflicts: 0, gets: 0, absences: 0, errors: 0,
    disk_free_bytes: 5 * 1024 ** 3, disk_low: false, version: '1.0.0', uptime_seconds: 75,
    ...some,
  }
}

export function member(name: string, some: Partial<MemberState> = {}): MemberState {
  return {
    id: `id-${name}`, name, url: `http://${name}:11000`, peer_url: `http://${name}:12000`, role: 'follower',
    status: 'up', since: new Date(noon).toISOString(), reason: '', healthy: true, lag: 0,
    rates: { puts: 0, gets: 0 }, stats: databaseStats({ name }),
    ...some,
  }
}

export function cacheStats(some: Partial<CacheStats> = {}): CacheStats {
  return {
    name: 'c1', url: 'http://c1:5551', role: 'cache', ready: true, peers: 3, databases: 3, version: '1.0.0', uptime_seconds: 75,
    gets: 200, hits: 150, mirrored_hits: 10, peer_loads: 20, peer_errors: 0, peer_served: 5, database_loads: 30, absences: 7, hedges: 0, peer_hedges: 0, errors: 0,
    admissions: 40, unadmitted: 2, evictions: 30, history_moves: 0, history_drops: 0, items: 10, bytes: 16 * 1024 ** 2, mirrored_bytes: 1024 ** 2, limit_bytes: 64 * 1024 ** 2,
    peer_p50_seconds: 0.0004, peer_p99_seconds: 0.003, database_p50_seconds: 0.001, database_p99_seconds: 0.02,
    ...some,
  }
}

export function cache(name: string, some: Partial<CacheState> = {}): CacheState {
  return {
    name, url: `http://${name}:5551`, status: 'up', since: new Date(noon).toISOString(), reason: '',
    share: 0.25, rates: { gets: 12, hit_ratio: 0.75 }, stats: cacheStats({ name }),
    ...some,
  }
}

export function rates(some: Partial<Rates> = {}): Rates {
  return { puts: 0, gets: 0, created: 0, conflicts: 0, absences: 0, errors: 0, hit_ratio: null, ...some }
}

export function state(some: Partial<State> = {}): State {
  return {
    time: new Date(noon).toISOString(), version: '1.0.0',
    health: { level: 'ok', sentence: 'All nodes are well.', problems: [], voters: '3 voters: one of them may fail.' },
    leader: 'n1', term: 4, stale: false, revision: 90, keys: 90, value_bytes: 4096,
    history: { id: historyId }, level: { store: 1, program: 1 },
    rates: rates(), members: [member('n1', { role: 'leader' })], caches: [cache('c1')],
    ...some,
  }
}
