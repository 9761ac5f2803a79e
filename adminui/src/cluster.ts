import { computed, ref, shallowRef } from 'vue'
import { pauseAfter } from './retry'
import type { Point, State } from './types'

// The one event stream of a tab, as reactive values. States are replaced, never
// changed, so nothing here is deeply reactive: with 37 nodes and two states a
// second that would be most of the page's work.

export type Connection = 'connecting' | 'open' | 'lost' | 'paused'

const maxPoints = 300
const silence = 5_000 // a state comes every second; after this long the stream is dead

export interface Surroundings {
  open(): EventSource
  hidden(): boolean
  onVisibility(changed: () => void): void
}

const browser: Surroundings = {
  open: () => new EventSource('/events'),
  hidden: () => document.hidden,
  onVisibility: (changed) => document.addEventListener('visibilitychange', changed),
}

export function createCluster(around: Surroundings = browser) {
  const state = shallowRef<State | null>(null)
  const history = shallowRef<readonly Point[]>([])
  const connection = ref<Connection>('connecting')
  const lostSince = ref(0) // when something was last heard, by the admin's clock
  const now = ref(Date.now()) // the admin's clock, moving on while it is silent
  // Whether anything that is asked now can be answered: the admin is there, and
  // so is a database node.
  const live = computed(() => connection.value === 'open' && (state.value?.members.some((m) => m.status !== 'down') ?? false))

  let source: EventSource | null = null
  let offset = 0 // the admin's clock minus the reader's
  let heard = Date.now()
  let retryAt = 0
  let refusals = 0 // in a row

  function start() {
    around.onVisibility(visibilityChanged)
    setInterval(tick, 1000)
    visibilityChanged()
  }

  function visibilityChanged() {
    if (around.hidden()) {
      disconnect()
      connection.value = 'paused'
    } else if (source === null) {
      connection.value = 'connecting'
      connect()
    }
  }

  function connect() {
    disconnect()
    heard = Date.now()
    retryAt = 0
    const opened = around.open()
    source = opened
    opened.addEventListener('history', (event) => {
      heard = Date.now()
      history.value = (JSON.parse(event.data) as { points: Point[] }).points.slice(-maxPoints)
    })
    opened.addEventListener('state', (event) => receive(JSON.parse(event.data) as State))
    opened.addEventListener('error', () => {
      lose()
      // EventSource retries after a broken connection, not after a refused one.
      if (opened.readyState === 2) {
        retryAt = Date.now() + pauseAfter(++refusals) * 1000
      }
    })
  }

  function disconnect() {
    source?.close()
    source = null
  }

  function receive(next: State) {
    heard = Date.now()
    refusals = 0
    offset = Date.parse(next.time) - heard
    now.value = heard + offset
    state.value = next
    connection.value = 'open'
    remember(next)
  }

  function remember({ time, revision, rates }: State) {
    const points = history.value
    const last = points[points.length - 1]
    if (last && Math.floor(Date.parse(time) / 1000) <= Math.floor(Date.parse(last.time) / 1000)) {
      return // one point a second
    }
    history.value = [...points.slice(1 - maxPoints), { time, revision, ...rates }]
  }

  function lose() {
    if (connection.value !== 'lost') {
      connection.value = 'lost'
      lostSince.value = heard + offset
    }
  }

  function tick() {
    const time = Date.now()
    now.value = time + offset
    if (source === null) {
      return
    }
    if (retryAt > 0 ? time >= retryAt : time - heard > silence) {
      lose()
      connect()
    }
  }

  return { state, history, connection, lostSince, now, live, start }
}

export type Cluster = ReturnType<typeof createCluster>

const cluster = createCluster()

export function useCluster(): Cluster {
  return cluster
}
