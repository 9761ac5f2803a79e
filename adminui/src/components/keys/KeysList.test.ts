import { flushPromises, mount } from '@vue/test-utils'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import * as api from '../../api'
import KeysList from './KeysList.vue'

vi.mock('../../api', async (original) => ({ ...(await original<typeof api>()), listKeys: vi.fn() }))

const listKeys = vi.mocked(api.listKeys)
const row = (name: { key?: string; key_base64?: string }, revision: number) => ({ ...name, revision, size: 3, sha256: '', content_type: 'text/plain' })
const hook = (id: string) => `[data-testid="${id}"]`
const bytes = (text: string) => new TextEncoder().encode(text)

function list(props: Partial<{ prefix: Uint8Array; after: string; selected: Uint8Array | null }> = {}) {
  return mount(KeysList, { props: { prefix: new Uint8Array(), after: '', selected: null, ...props } })
}

beforeEach(() => {
  vi.useFakeTimers()
  listKeys.mockReset().mockResolvedValue({ keys: [row({ key: 'app/a b' }, 1), row({ key_base64: '//4=' }, 2)], next: 'token' })
})
afterEach(() => vi.useRealTimers())

test('every row leads to its key, text or not, and keeps what is listed', async () => {
  const wrapper = list({ prefix: bytes('app/'), after: 'page2', selected: bytes('app/a b') })
  await flushPromises()
  const rows = wrapper.findAll(hook('keys-row'))
  expect(rows.map((r) => r.attributes('data-key'))).toEqual(['app/a b', '\\xff\\xfe'])
  expect(rows[0]!.find('a').attributes('href')).toBe('#/keys?prefix=app%2F&after=page2&key=app%2Fa%20b')
  expect(rows[1]!.find('a').attributes('href')).toBe('#/keys?prefix=app%2F&after=page2&key_base64=%2F%2F4%3D')
  expect(rows.map((r) => r.find('a').attributes('aria-current'))).toEqual(['true', undefined])
})

test('typing filters after a rest, and asks for an exact key with Enter', async () => {
  const wrapper = list()
  await flushPromises()
  await wrapper.find(hook('keys-prefix')).setValue('a')
  await wrapper.find(hook('keys-prefix')).setValue('app')
  expect(wrapper.emitted('prefix')).toBeUndefined()
  vi.runAllTimers()
  expect(wrapper.emitted('prefix')).toEqual([[bytes('app')]])
  await wrapper.find('form').trigger('submit')
  expect(wrapper.emitted('open')).toEqual([[bytes('app')]])
})

test('turns pages', async () => {
  const wrapper = list()
  await flushPromises()
  expect(wrapper.find(hook('keys-back')).attributes('disabled')).toBeDefined()
  await wrapper.find(hook('keys-next')).trigger('click')
  expect(wrapper.emitted('page')).toEqual([['token']])
})

test('shows why there is no list', async () => {
  listKeys.mockRejectedValue(new api.Problem(503, { detail: 'no leader is known to this node now' }))
  const wrapper = list()
  await flushPromises()
  expect(wrapper.text()).toContain('no leader is known to this node now')
})

test('tries again by itself after a failure, says since when, and forgets the error', async () => {
  listKeys.mockRejectedValue(new api.Problem(503, { detail: 'no leader is known to this node now' }))
  const wrapper = list()
  await flushPromises()
  expect(wrapper.find(hook('keys-problem')).text()).toContain('The page keeps trying.')
  listKeys.mockResolvedValue({ keys: [row({ key: 'back' }, 1)] })
  vi.advanceTimersByTime(1000)
  await flushPromises()
  expect(wrapper.find(hook('keys-problem')).exists()).toBe(false)
  expect(wrapper.text()).toContain('back')
})

test('calls what it shows old while newer keys cannot be read', async () => {
  const wrapper = list()
  await flushPromises()
  listKeys.mockRejectedValue(new api.Problem(0))
  ;(wrapper.vm as unknown as { reload: () => void }).reload()
  await flushPromises()
  expect(wrapper.text()).toContain('The list below is out of date.')
  expect(wrapper.findAll(hook('keys-row'))).toHaveLength(2)
})
