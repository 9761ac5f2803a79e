import { enableAutoUnmount, flushPromises, mount } from '@vue/test-utils'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createMemoryHistory } from 'vue-router'
import * as api from '../api'
import { useCluster } from '../cluster'
import { member, state } from '../fixtures'
import { createPageRouter } from '../router'
import History from './History.vue'

vi.mock('../api', async (original) => ({ ...(await original<typeof api>()), listChanges: vi.fn() }))

const listChanges = vi.mocked(api.listChanges)
enableAutoUnmount(afterEach)

const hook = (id: string) => `[data-testid="${id}"]`

async function view(path: string) {
  const router = createPageRouter(createMemoryHistory())
  await router.push(path)
  const wrapper = mount(History, { global: { plugins: [router] } })
  await flushPromises()
  return { wrapper, router }
}

async function reach(revision: number) {
  useCluster().state.value = state({ revision })
  await flushPromises()
}

beforeEach(async () => {
  listChanges.mockReset().mockImplementation(async ({ since }) => [
    { key: `k${since + 1}`, revision: since + 1, size: 1, sha256: '', content_type: '', time: '2026-11-22T18:17:43Z' },
  ])
  useCluster().connection.value = 'open'
  await reach(1)
})

test('follows the revision of the state, and stands still while it is paused', async () => {
  const { wrapper } = await view('/history')
  expect(wrapper.findAll(hook('changes-row'))).toHaveLength(1)
  await wrapper.find(hook('history-pause')).trigger('click')
  expect(wrapper.find(hook('history-pause')).attributes('aria-pressed')).toBe('true')
  await reach(2)
  expect(wrapper.findAll(hook('changes-row'))).toHaveLength(1)
  expect(wrapper.text()).toContain('Paused. 1 newer.')
  await wrapper.find(hook('history-pause')).trigger('click')
  await flushPromises()
  expect(wrapper.findAll(hook('changes-row')).map((r) => r.attributes('data-revision'))).toEqual(['2', '1'])
})

test('the address says from where and for which keys', async () => {
  await reach(9)
  const { wrapper, router } = await view('/history?since=4&prefix=k')
  expect(listChanges).toHaveBeenNthCalledWith(1, { since: 4, limit: 100, prefix: 'k' })
  await wrapper.find(hook('history-since')).setValue('7')
  await wrapper.find('form').trigger('submit')
  await flushPromises()
  expect(router.currentRoute.value.query).toEqual({ since: '7', prefix: 'k' })
  expect(listChanges).toHaveBeenLastCalledWith({ since: 7, limit: 100, prefix: 'k' })
})

test('what is no revision cannot be asked for', async () => {
  const { wrapper } = await view('/history')
  await wrapper.find(hook('history-since')).setValue('-1')
  expect(wrapper.find(hook('history-replay')).attributes('disabled')).toBeDefined()
})

test('is live only while something can come', async () => {
  const { wrapper } = await view('/history')
  const status = () => wrapper.find(hook('history-status')).text()
  expect(status()).toBe('Live.')
  useCluster().connection.value = 'lost'
  await flushPromises()
  expect(status()).toContain('Not live: no word from the admin since')
  useCluster().connection.value = 'open'
  useCluster().state.value = state({ members: [member('n1', { status: 'down' })] })
  await flushPromises()
  expect(status()).toBe('Not live: no database node answers the admin.')
  useCluster().state.value = state({ leader: '' })
  await flushPromises()
  expect(status()).toBe('Not live: there is no leader, so no key can be set.')
  listChanges.mockRejectedValue(new api.Problem(503, { detail: 'no leader' }))
  await reach(1000)
  expect(status()).toBe('Not live: the changes could not be read.')
  expect(wrapper.text()).toContain('The page keeps trying.')
})
