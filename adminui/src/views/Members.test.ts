import { mount } from '@vue/test-utils'
import { beforeEach, expect, test, vi } from 'vitest'
import { ref, shallowRef } from 'vue'
import type { Connection } from '../cluster'
import { member, noon, state } from '../fixtures'
import type { State } from '../types'
import Members from './Members.vue'

const cluster = vi.hoisted(() => ({ now: {} as unknown }))
vi.mock('../cluster', () => ({ useCluster: () => cluster.now }))

const shown = shallowRef<State | null>(null)
const connection = ref<Connection>('open')

beforeEach(() => {
  shown.value = state({ members: [member('n1', { role: 'leader' }), member('n2')] })
  connection.value = 'open'
  cluster.now = { state: shown, connection, now: ref(noon) }
})

const hindrance = '[data-testid="members-hindrance"]'

test('says how the votes stand in the words of the admin', () => {
  const view = mount(Members)
  expect(view.text()).toContain('3 voters: one of them may fail. Term 4.')
  expect(view.find(hindrance).exists()).toBe(false)
})

test('without a leader nothing can be changed, and it says so', () => {
  shown.value = state({ leader: '', members: [member('n1'), member('n2')] })
  const view = mount(Members)
  expect(view.get(hindrance).text()).toContain('There is no leader')
  expect(view.findAll('table button').every((b) => b.attributes('disabled') !== undefined)).toBe(true)
})

test('without a connection the list is old, and it says so', () => {
  connection.value = 'lost'
  expect(mount(Members).get(hindrance).text()).toContain('This list is out of date')
})

test('before a cluster is formed it says what the admin says', () => {
  shown.value = state({ members: [], health: { level: 'warning', sentence: 'There is no cluster yet: n1 waits for the other nodes.', problems: [], voters: '' } })
  const view = mount(Members)
  expect(view.get(hindrance).text()).toBe('There is no cluster yet: n1 waits for the other nodes.')
  expect(view.find('table').exists()).toBe(false)
})
