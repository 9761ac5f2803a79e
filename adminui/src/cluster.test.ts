import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { createCluster } from './cluster'
import type { State } from './types'

class FakeSource extends EventTarget {
  readyState = 1
  close() {
    this.readyState = 2
  }
  say(type: string, data: unknown) {
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data) }))
  }
}

function stateAt(time: number): Partial<State> {
  return { time: new Date(time).toISOString(), revision: 1, rates: { puts: 1, gets: 2, created: 1, conflicts: 0, absences: 0, errors: 0, hit_ratio: null } }
}

function setUp() {
  const sources: FakeSource[] = []
  let hidden = false
  let changed = () => {}
  const cluster = createCluster({
    open: () => {
      sources.push(new FakeSource())
      return sources[sources.length - 1] as unknown as EventSource
    },
    hidden: () => hidden,
    onVisibility: (callback) => (changed = callback),
  })
  const hide = (value: boolean) => {
    hidden = value
    changed()
  }
  return { cluster, sources, hide }
}

beforeEach(() => vi.useFakeTimers({ now: 1_000_000 }))
afterEach(() => vi.useRealTimers())

it('keeps one point a second, at most 300', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  for (let i = 0; i < 700; i++) {
    sources[0]!.say('state', stateAt(1_000_000 + i * 500))
  }
  expect(cluster.history.value).toHaveLength(300)
  const times = cluster.history.value.map((p) => Date.parse(p.time) / 1000)
  expect(new Set(times.map(Math.floor)).size).toBe(300)
})

it('replaces what it remembers by the history it is told', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  sources[0]!.say('state', stateAt(1_000_000))
  sources[0]!.say('history', { points: [{ time: '2026-01-01T00:00:00Z' }, { time: '2026-01-01T00:00:01Z' }] })
  expect(cluster.history.value).toHaveLength(2)
})

it('says since when it hears nothing, and tries again', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  sources[0]!.say('state', stateAt(1_000_000))
  expect(cluster.connection.value).toBe('open')
  vi.advanceTimersByTime(6_000) // silence, not an error
  expect(cluster.connection.value).toBe('lost')
  expect(cluster.lostSince.value).toBe(1_000_000)
  expect(sources).toHaveLength(2)
  sources[1]!.say('state', stateAt(1_006_000))
  expect(cluster.connection.value).toBe('open')
})

it('opens a stream again that was refused for good', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  sources[0]!.readyState = 2
  sources[0]!.dispatchEvent(new Event('error'))
  expect(cluster.connection.value).toBe('lost')
  vi.advanceTimersByTime(3_000)
  expect(sources).toHaveLength(2)
})

it('leaves longer and longer pauses after refusals', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  const refuse = () => {
    const newest = sources[sources.length - 1]!
    newest.readyState = 2
    newest.dispatchEvent(new Event('error'))
  }
  const pause = () => {
    refuse()
    const before = sources.length
    let seconds = 0
    for (; sources.length === before; seconds++) {
      vi.advanceTimersByTime(1_000)
    }
    return seconds
  }
  expect([pause(), pause(), pause(), pause(), pause(), pause()]).toEqual([1, 2, 4, 8, 15, 15])
  sources[sources.length - 1]!.say('state', stateAt(Date.now()))
  expect(pause()).toBe(1)
})

it('holds no stream while the tab is hidden', () => {
  const { cluster, sources, hide } = setUp()
  cluster.start()
  hide(true)
  expect(sources[0]!.readyState).toBe(2)
  vi.advanceTimersByTime(60_000)
  expect(sources).toHaveLength(1)
  expect(cluster.connection.value).toBe('paused')
  hide(false)
  expect(sources).toHaveLength(2)
})

it('shows the admin’s clock, which is not the reader’s', () => {
  const { cluster, sources } = setUp()
  cluster.start()
  sources[0]!.say('state', stateAt(5_000_000))
  vi.advanceTimersByTime(2_000)
  expect(cluster.now.value).toBe(5_002_000)
})
