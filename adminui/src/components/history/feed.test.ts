import { flushPromises } from '@vue/test-utils'
import { expect, test, vi } from 'vitest'
import { floodSize, pageSize, rowsMax, searchedMax, useFeed, type Row } from './feed'

interface Change {
  revision: number
  key: string
}

// A history of `length` changes; the even ones begin with "even/".
function history(length: number) {
  const store = { length }
  const fetchChanges = vi.fn(async ({ since, limit, prefix }: { since: number; limit: number; prefix: string }) => {
    const found: Change[] = []
    for (let revision = since + 1; revision <= store.length && found.length < limit; revision++) {
      const key = (revision % 2 === 0 ? 'even/' : 'odd/') + revision
      if (key.startsWith(prefix)) {
        found.push({ revision, key })
      }
    }
    return found
  })
  return { store, fetchChanges, feed: useFeed<Change>(fetchChanges) }
}

function shown(rows: readonly Row<Change>[]): (number | string)[] {
  return rows.map((row) => ('change' in row ? row.change.revision : `gap ${row.after}-${row.until}`))
}

test('begins with what came last, newest first', async () => {
  const { feed } = history(1000)
  feed.advance(1000)
  await flushPromises()
  expect(shown(feed.rows.value)).toEqual(Array.from({ length: pageSize }, (_, i) => 1000 - i))
})

test('asks once for every state, and not while an answer is awaited', async () => {
  const { feed, store, fetchChanges } = history(5)
  feed.advance(5)
  feed.advance(5)
  await flushPromises()
  feed.advance(5)
  expect(fetchChanges).toHaveBeenCalledTimes(1)
  store.length = 6
  feed.advance(6)
  await flushPromises()
  expect(fetchChanges).toHaveBeenCalledTimes(2)
  expect(shown(feed.rows.value)).toEqual([6, 5, 4, 3, 2, 1])
})

test('leaves out what came too fast, and says how to see it', async () => {
  const { feed, store } = history(10)
  feed.advance(10)
  await flushPromises()
  store.length = 20_000
  feed.advance(20_000)
  await flushPromises()
  const rows = shown(feed.rows.value)
  expect(rows[0]).toBe(20_000)
  expect(rows[floodSize]).toBe(`gap 10-${20_000 - floodSize}`)
  expect(rows[floodSize + 1]).toBe(10)
})

test('never keeps more rows than it should', async () => {
  const { feed, store } = history(0)
  for (let i = 1; i <= 20; i++) {
    store.length = i * 50
    feed.advance(store.length)
    await flushPromises()
  }
  expect(feed.rows.value.length).toBe(rowsMax)
})

test('a change that came after the state is shown once', async () => {
  const { feed, store } = history(7)
  feed.advance(5)
  await flushPromises()
  feed.advance(7)
  store.length = 8
  feed.advance(8)
  await flushPromises()
  expect(shown(feed.rows.value)).toEqual([8, 7, 6, 5, 4, 3, 2, 1])
})

test('paused, it stands still; afterwards it goes on from there', async () => {
  const { feed, store, fetchChanges } = history(3)
  feed.advance(3)
  await flushPromises()
  feed.pause(true)
  store.length = 6
  feed.advance(6)
  await flushPromises()
  expect(fetchChanges).toHaveBeenCalledTimes(1)
  expect(feed.newest.value - feed.cursor.value).toBe(3)
  feed.pause(false)
  await flushPromises()
  expect(shown(feed.rows.value)).toEqual([6, 5, 4, 3, 2, 1])
})

test('a replay goes page by page without gaps, then follows', async () => {
  const { feed, store, fetchChanges } = history(150)
  feed.advance(150)
  feed.replay(0, '')
  await flushPromises()
  expect(shown(feed.rows.value)).toEqual(Array.from({ length: pageSize }, (_, i) => pageSize - i))
  feed.advance(151)
  await flushPromises()
  expect(fetchChanges).toHaveBeenCalledTimes(2)
  store.length = 151
  await feed.next()
  expect(feed.following.value).toBe(true)
  expect(shown(feed.rows.value)).toEqual(Array.from({ length: 151 }, (_, i) => 151 - i))
})

test('with a prefix a longer stretch is searched, and only the newest shown', async () => {
  const { feed } = history(10_000)
  feed.advance(10_000)
  feed.follow('even/')
  await flushPromises()
  const rows = shown(feed.rows.value)
  expect(rows.slice(0, 2)).toEqual([10_000, 9_998])
  expect(rows.at(-1)).toBe(`gap ${10_000 - searchedMax}-${10_000 - 2 * floodSize + 1}`)
})

test('shows an error, waits to be told to try again, and is rid of it with the next answer', async () => {
  const { feed, fetchChanges } = history(2)
  fetchChanges.mockRejectedValueOnce(new Error('no quorum'))
  feed.advance(1)
  await flushPromises()
  expect(feed.error.value).toEqual(new Error('no quorum'))
  feed.advance(2) // states come twice a second, which is too often
  await flushPromises()
  expect(fetchChanges).toHaveBeenCalledTimes(1)
  feed.again()
  await flushPromises()
  expect(feed.error.value).toBeNull()
  expect(shown(feed.rows.value)).toEqual([2, 1])
})

test('an answer for another prefix is dropped', async () => {
  const { feed } = history(4)
  feed.advance(4)
  feed.follow('odd/')
  await flushPromises()
  expect(shown(feed.rows.value)).toEqual([3, 1])
})

test('a replay that failed goes on where it was', async () => {
  const { feed, fetchChanges } = history(3)
  feed.advance(3)
  fetchChanges.mockRejectedValueOnce(new Error('no quorum'))
  feed.replay(1, '')
  await flushPromises()
  expect(feed.error.value).not.toBeNull()
  feed.again()
  await flushPromises()
  expect(feed.error.value).toBeNull()
  expect(shown(feed.rows.value)).toEqual([3, 2])
})
