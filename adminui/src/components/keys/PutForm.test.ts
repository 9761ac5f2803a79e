import { flushPromises, mount } from '@vue/test-utils'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import * as api from '../../api'
import PutForm from './PutForm.vue'

vi.mock('../../api', async (original) => ({ ...(await original<typeof api>()), putKey: vi.fn(), readKey: vi.fn() }))

const putKey = vi.mocked(api.putKey)
const answer = { key: 'app/x', revision: 7, sha256: 'ab'.repeat(32), size: 3, detail: '' }

const hook = (id: string) => `[data-testid="${id}"]`

function form() {
  return mount(PutForm, { attachTo: document.body })
}

async function put(wrapper: ReturnType<typeof form>, key: string, value: string) {
  await wrapper.find(hook('put-key')).setValue(key)
  await wrapper.find(hook('put-value')).setValue(value)
  await wrapper.find('form').trigger('submit')
  await flushPromises()
}

beforeEach(() => {
  Element.prototype.scrollIntoView = () => {}
  vi.mocked(api.readKey).mockResolvedValue({
    revision: 7,
    time: '2026-11-22T18:17:43Z',
    contentType: 'text/plain',
    sha256: 'ab'.repeat(32),
    size: 5,
    body: new TextEncoder().encode('first'),
  })
})
afterEach(() => {
  document.body.innerHTML = ''
})

test('nothing can be put without a key', async () => {
  const wrapper = form()
  expect(wrapper.find(hook('put-submit')).attributes('disabled')).toBeDefined()
  await wrapper.find(hook('put-key')).setValue('k')
  expect(wrapper.find(hook('put-submit')).attributes('disabled')).toBeUndefined()
})

test('puts what was typed, and invites to try another value', async () => {
  putKey.mockResolvedValueOnce({ ...answer, outcome: 'created' })
  const wrapper = form()
  await put(wrapper, 'app/x', 'one')
  const [key, value, type] = putKey.mock.calls[0]!
  expect(new TextDecoder().decode(key as Uint8Array)).toBe('app/x')
  expect(await value.text()).toBe('one')
  expect(type).toBe('text/plain; charset=utf-8')
  expect(wrapper.find(hook('put-result')).attributes('data-outcome')).toBe('created')
  expect(wrapper.emitted('created')).toHaveLength(1)
  await wrapper.find(hook('put-another')).trigger('click')
  await flushPromises()
  expect(document.activeElement).toBe(wrapper.find(hook('put-value')).element)
})

test('a refused put shows the winner beside what was tried', async () => {
  putKey.mockResolvedValueOnce({ ...answer, outcome: 'conflict', detail: 'set to other bytes since revision 7, and cannot be changed' })
  const wrapper = form()
  await put(wrapper, 'app/x', 'second')
  await flushPromises()
  const result = wrapper.find(hook('put-result'))
  expect(result.attributes('data-outcome')).toBe('conflict')
  expect(result.text()).toContain('set to other bytes since revision 7, and cannot be changed')
  expect(wrapper.find(hook('put-winner')).text()).toContain('first')
  await vi.waitFor(() => expect(wrapper.find(hook('put-tried')).text()).toContain('second'))
})

test('after an unknown outcome the same put can be repeated', async () => {
  putKey.mockReset()
  putKey.mockRejectedValueOnce(new api.Problem(504, { detail: 'the outcome is unknown' })).mockResolvedValueOnce({ ...answer, outcome: 'created' })
  const wrapper = form()
  await put(wrapper, 'app/x', 'one')
  expect(wrapper.find(hook('put-result')).attributes('data-outcome')).toBe('unknown')
  expect(wrapper.text()).toContain('the outcome is unknown')
  await wrapper.find(hook('put-repeat')).trigger('click')
  await flushPromises()
  expect(wrapper.find(hook('put-result')).attributes('data-outcome')).toBe('created')
  expect(putKey.mock.calls[1]![3]!.id).toBe(putKey.mock.calls[0]![3]!.id)
})

test('an error shows the detail, the limit and when to try again', async () => {
  putKey.mockRejectedValueOnce(new api.Problem(413, { title: 'Too large', detail: 'over the limit', limit_bytes: 1 << 30 }, 2))
  const wrapper = form()
  await put(wrapper, 'app/x', 'one')
  const text = wrapper.find(hook('put-result')).text()
  for (const part of ['Too large', 'over the limit', '1.00 GiB', 'Try again in 2 s']) {
    expect(text).toContain(part)
  }
})
