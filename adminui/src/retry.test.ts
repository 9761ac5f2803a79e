import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { effectScope, nextTick, ref, shallowRef } from 'vue'
import { Problem } from './problem'
import { passing, useRetry } from './retry'

beforeEach(() => vi.useFakeTimers({ now: 1_000_000 }))
afterEach(() => vi.useRealTimers())

const failure = () => new Problem(503, { detail: 'no leader' })

function setUp() {
  const error = shallowRef<unknown>(null)
  const back = ref(true)
  const again = vi.fn(() => (error.value = failure()))
  const scope = effectScope()
  const since = scope.run(() => useRetry(error, again, back))!
  return { error, back, again, scope, since }
}

test('tries again after longer and longer pauses, and says since when it fails', () => {
  const { error, again, since } = setUp()
  error.value = failure()
  for (const seconds of [1, 2, 4, 8, 15, 15]) {
    const before = again.mock.calls.length
    vi.advanceTimersByTime(seconds * 1000 - 1)
    expect(again).toHaveBeenCalledTimes(before)
    vi.advanceTimersByTime(1)
    expect(again).toHaveBeenCalledTimes(before + 1)
    expect(since.value).toBe(1_000_000)
  }
})

test('rests when it has worked, and begins anew with the next failure', () => {
  const { error, again, since } = setUp()
  error.value = failure()
  vi.advanceTimersByTime(3000)
  error.value = null
  expect(since.value).toBe(0)
  vi.advanceTimersByTime(60_000)
  const calls = again.mock.calls.length
  error.value = failure()
  vi.advanceTimersByTime(1000)
  expect(again).toHaveBeenCalledTimes(calls + 1)
})

test('tries at once when the cluster is back', async () => {
  const { error, back, again } = setUp()
  back.value = false
  error.value = failure()
  vi.advanceTimersByTime(7000)
  await nextTick()
  const calls = again.mock.calls.length
  back.value = true
  await nextTick()
  expect(again).toHaveBeenCalledTimes(calls + 1)
})

test('waits as long as it was told', () => {
  const { error, again } = setUp()
  error.value = new Problem(429, {}, 5)
  vi.advanceTimersByTime(4999)
  expect(again).not.toHaveBeenCalled()
  vi.advanceTimersByTime(1)
  expect(again).toHaveBeenCalled()
})

test('does not repeat what would fail again, and nothing when it is not looked at', () => {
  expect([0, 408, 429, 500, 503, 504].map((status) => passing(new Problem(status)))).toEqual(Array(6).fill(true))
  expect([400, 404, 409, 413].map((status) => passing(new Problem(status)))).toEqual(Array(4).fill(false))
  expect(passing(new TypeError('a bug'))).toBe(false)
  const { error, again, scope } = setUp()
  error.value = new Problem(400)
  vi.advanceTimersByTime(60_000)
  error.value = failure()
  scope.stop()
  vi.advanceTimersByTime(60_000)
  expect(again).not.toHaveBeenCalled()
})
