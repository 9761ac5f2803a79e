import { expect, test, vi } from 'vitest'
import { Problem, type putKey, type PutAnswer } from '../../api'
import { intentOf, usePut } from './put'

const key = new TextEncoder().encode('k')
const value = new Blob(['v'])

function answer(outcome: PutAnswer['outcome']): PutAnswer {
  return { key: 'k', outcome, revision: 7, sha256: 'ab', size: 1, detail: '' }
}

test('a repeat after an answer was lost is the same put, under the same id', async () => {
  const send = vi.fn<typeof putKey>()
  send.mockRejectedValueOnce(new Problem(504, { detail: 'unknown' })).mockResolvedValueOnce(answer('created'))
  const { put, result } = usePut(send)
  await put(intentOf(key, value, 'text/plain', null))
  expect(result.value?.outcome).toBe('unknown')
  await put(result.value!.intent)
  expect(result.value?.outcome).toBe('created')
  const [first, second] = send.mock.calls
  expect(first![3]!.id).toMatch(/^[0-9a-f]{32}$/)
  expect(second![3]!.id).toBe(first![3]!.id)
})

test('pressing the button again after that is a repeat too, but not of a put that is settled', async () => {
  const send = vi.fn<typeof putKey>()
  send.mockRejectedValueOnce(new Problem(503, {})).mockResolvedValueOnce(answer('created'))
  const { put, result } = usePut(send)
  const first = intentOf(key, value, 'text/plain', null)
  await put(first)
  expect(intentOf(Uint8Array.from(key), value, 'text/plain', result.value)).toBe(first)
  expect(intentOf(key, new Blob(['other']), 'text/plain', result.value).id).not.toBe(first.id)
  expect(intentOf(key, value, 'image/png', result.value).id).not.toBe(first.id)
  await put(first)
  expect(intentOf(key, value, 'text/plain', result.value).id).not.toBe(first.id)
})

test('a refusal is an error, a lost connection is not', async () => {
  const send = vi.fn<typeof putKey>()
  send.mockRejectedValueOnce(new Problem(507, { detail: 'disk' })).mockRejectedValueOnce(new Problem(0))
  const { put, result } = usePut(send)
  await put(intentOf(key, value, '', null))
  expect(result.value).toMatchObject({ outcome: 'error', problem: { detail: 'disk' } })
  await put(intentOf(key, value, '', null))
  expect(result.value?.outcome).toBe('unknown')
})

test('a repeat that is refused leaves open what became of the put before', async () => {
  const send = vi.fn<typeof putKey>()
  send.mockRejectedValueOnce(new Problem(504)).mockRejectedValueOnce(new Problem(503, { detail: 'no leader' }))
  const { put, result } = usePut(send)
  await put(intentOf(key, value, '', null))
  await put(result.value!.intent)
  expect(result.value).toMatchObject({ outcome: 'unknown', problem: { detail: 'no leader' } })
})

test('nobody knows what became of a put that was cancelled', async () => {
  const send = vi.fn<typeof putKey>((_key, _value, _type, options) => {
    return new Promise((_, reject) => options!.signal!.addEventListener('abort', () => reject(new DOMException('', 'AbortError'))))
  })
  const { put, cancel, busy, result } = usePut(send)
  const done = put(intentOf(key, value, '', null))
  expect(busy.value).toBe(true)
  cancel()
  await done
  expect(busy.value).toBe(false)
  expect(result.value?.outcome).toBe('unknown')
})
