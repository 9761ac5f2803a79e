import { expect, test, vi } from 'vitest'
import type { listKeys } from '../../api'
import type { KeysPage } from '../../types'
import { useKeysPage } from './page'

const none = new Uint8Array()

function pages(): typeof listKeys {
  const behind = new Map([['', 'two'], ['two', 'three']])
  return vi.fn<typeof listKeys>(async ({ after = '' } = {}) => {
    const next = behind.get(after)
    return { keys: [{ key: after || 'one', revision: 1, size: 0, sha256: '', content_type: '' }], next }
  })
}

test('goes on by tokens, and back the way it came', async () => {
  const { page, load, before } = useKeysPage(pages())
  await load(none, '')
  expect(page.value?.next).toBe('two')
  await load(none, 'two')
  await load(none, 'three')
  expect(page.value).toMatchObject({ next: '', keys: [{ key: 'three' }] })
  expect(before('three')).toBe('two')
  expect(before('two')).toBe('')
})

test('of a page that was opened by its address, back is the first one', async () => {
  const { load, before } = useKeysPage(pages())
  await load(none, 'three')
  expect(before('three')).toBe('')
})

test('only the last question is answered', async () => {
  const waiting: ((page: KeysPage) => void)[] = []
  const { page, load, loading } = useKeysPage(() => new Promise((resolve) => waiting.push(resolve)))
  const first = load(none, '')
  const second = load(none, 'two')
  waiting[1]!({ keys: [], next: 'new' })
  waiting[0]!({ keys: [], next: 'old' })
  await Promise.all([first, second])
  expect(page.value?.next).toBe('new')
  expect(loading.value).toBe(false)
})
