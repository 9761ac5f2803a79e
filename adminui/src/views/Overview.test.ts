import { mount } from '@vue/test-utils'
import { beforeEach, expect, it, vi } from 'vitest'
import { nextTick, ref, shallowRef } from 'vue'
import { cache, historyId, member, noon, rates, state } from '../fixtures'
import type { Point, State } from '../types'

const cluster = vi.hoisted(() => ({ now: {} as Record<string, unknown> }))
vi.mock('../cluster', () => ({ useCluster: () => cluster.now }))
const { default: Overview } = await import('./Overview.vue')

const shown = shallowRef<State | null>(null)
const connection = ref('open')

// There is no canvas here; the label is what the chart tells those who cannot see it.
const TimeChart = { props: ['label'], template: '<div class="chart">{{ label }}</div>' }

function setUp() {
  return mount(Overview, { global: { stubs: { TimeChart } } })
}

beforeEach(() => {
  const history = shallowRef<Point[]>([{ ...rates({ puts: 3, gets: 1500, hit_ratio: 0.5 }), time: new Date(noon).toISOString(), revision: 1 }])
  shown.value = null
  connection.value = 'open'
  cluster.now = { state: shown, history, connection, now: ref(noon + 14_000) }
})

it('claims nothing before it has heard anything', async () => {
  const view = setUp()
  expect(view.get('[data-testid=health]').attributes('data-level')).toBe('unknown')
  expect(view.findAll('[data-testid=db-card]')).toHaveLength(0)
  shown.value = state()
  await nextTick()
  expect(view.get('[data-testid=health]').text()).toBe('All nodes are well.')
})

it('shows 7 database and 30 cache nodes', () => {
  shown.value = state({
    members: Array.from({ length: 7 }, (_, i) => member(`n${i + 1}`, { role: i === 2 ? 'leader' : 'follower' })),
    caches: Array.from({ length: 30 }, (_, i) => cache(`c${i + 1}`)),
  })
  const view = setUp()
  const names = (kind: string) => view.findAll(`[data-testid=${kind}]`).map((card) => card.attributes('data-name'))
  expect(names('db-card')).toEqual(['n1', 'n2', 'n3', 'n4', 'n5', 'n6', 'n7'])
  expect(names('cache-card')).toHaveLength(30)
  expect(view.get('[data-testid=leader-mark]').element.closest('[data-name]')?.getAttribute('data-name')).toBe('n3')
})

it('turns a node red with the next state, and says what it means', async () => {
  shown.value = state({ members: [member('n1', { role: 'leader' }), member('n2')] })
  const view = setUp()
  shown.value = state({
    health: { level: 'warning', sentence: '1 of 3 nodes is down.', problems: ['1 of 3 nodes is down.', 'Database node n2: connection refused.'], voters: '' },
    members: [member('n1', { role: 'leader' }), member('n2', { status: 'down', reason: 'connection refused' })],
  })
  await nextTick()
  expect(view.get('[data-name=n2]').attributes('data-status')).toBe('down')
  expect(view.get('[data-name=n2]').text()).toContain('since 12:03:11 (14 s)')
  expect(view.get('[data-testid=health]').attributes('data-level')).toBe('warning')
  expect(view.findAll('.health li').map((line) => line.text())).toEqual(['Database node n2: connection refused.']) // nothing twice
  expect(view.text()).toContain('1 of 2')
})

it('says when no leader is known and when nobody confirms the members', async () => {
  shown.value = state({ leader: '', stale: true })
  const view = setUp()
  expect(view.text()).toContain('none')
  expect(view.text()).toContain('nothing can be put')
  shown.value = state({ stale: true })
  await nextTick()
  expect(view.text()).toContain('not confirmed by a quorum')
})

it('counts a node that answers and is not ready as what it is', () => {
  shown.value = state({ caches: [cache('c1', { status: 'starting' }), cache('c2', { status: 'down' }), cache('c3', { status: 'down', left: true })] })
  expect(setUp().get('[data-testid=caches-up]').text()).toBe('Cache nodes1 of 2up, 1 of them not ready')
})

it('says that there are no cache nodes, and that this is no fault', () => {
  shown.value = state({ caches: [] })
  expect(setUp().get('[data-testid=caches-up]').text()).toBe('Cache nodesnonereads go to the database nodes')
})

it('names the history, and what it went on from', async () => {
  shown.value = state()
  const view = setUp()
  expect(view.get('[data-testid=history-identity] code').text()).toBe(historyId)
  expect(view.get('[data-testid=history-identity] p').text()).toBe('It continues no other history. Level 1.')
  const parent = (digit: string, revision: number) => ({ id: digit.repeat(32), revision, head: '' })
  shown.value = state({ history: { id: historyId, parents: [parent('a', 3), parent('b', 12345)] } })
  await nextTick()
  expect(view.get('[data-testid=history-identity] p').text()).toContain(`It continues ${'b'.repeat(32)} from revision 12,345.`)
  shown.value = state({ history: null }) // an older program tells none
  await nextTick()
  expect(view.find('[data-testid=history-identity]').exists()).toBe(false)
})

it('says since when no database node was heard', async () => {
  const down = { status: 'down' as const }
  shown.value = state({ members: [member('n1', down), member('n2', { ...down, since: new Date(noon - 5000).toISOString() })] })
  const view = setUp()
  expect(view.get('.health').text()).toContain('No word from the database nodes since 12:03:11 (14 s).')
  expect(view.text()).toContain('when last seen')
  expect(view.get('[data-name=n1]').text()).not.toContain('in step')
})

it('puts every chart into words', () => {
  shown.value = state({ rates: rates({ puts: 3, gets: 1500, hit_ratio: 0.5 }) })
  expect(setUp().findAll('.chart').map((chart) => chart.text())).toEqual([
    'Puts per second over the last minute: now 3.0, lowest 3.0, highest 3.0.',
    'Gets per second over the last minute: now 1,500, lowest 1,500, highest 1,500.',
    'Cache hit ratio over the last minute: now 50 %, lowest 50 %, highest 50 %.',
  ])
})

it('marks the values as old when the connection is lost', async () => {
  shown.value = state()
  const view = setUp()
  expect(view.text()).not.toContain('As it was')
  connection.value = 'lost'
  await nextTick()
  expect(view.text()).toContain('As it was at')
})
