import { flushPromises } from '@vue/test-utils'
import { expect, test, vi } from 'vitest'
import { effectScope, shallowRef } from 'vue'
import { Problem, type readKey } from '../../api'
import { useValue } from './value'

const key = (text: string) => new TextEncoder().encode(text)

function reader() {
  return vi.fn<typeof readKey>(async (asked) => {
    const text = new TextDecoder().decode(asked as Uint8Array)
    if (text === 'absent') {
      throw new Problem(404, { detail: 'not set' })
    }
    if (text === 'broken') {
      throw new Problem(503, { detail: 'no quorum' })
    }
    return { revision: 1, time: '', contentType: 'text/plain', sha256: '', size: 9, body: key('of ' + text) }
  })
}

function look(first: string) {
  const target = shallowRef<Uint8Array | null>(key(first))
  const read = reader()
  const value = effectScope().run(() => useValue(target, 100, read))!
  return { target, read, ...value }
}

test('a key that is not set is an answer, other problems are not', async () => {
  const { target, looked } = look('absent')
  expect(looked.value.status).toBe('loading')
  await flushPromises()
  expect(looked.value.status).toBe('absent')
  target.value = key('broken')
  await flushPromises()
  expect(looked.value).toMatchObject({ status: 'failed', error: { detail: 'no quorum' } })
  target.value = null
  await flushPromises()
  expect(looked.value.status).toBe('none')
})

test('the answer for a key that was left is not shown for the next one', async () => {
  const { target, looked, read } = look('slow')
  let answerSlow = () => {}
  read.mockImplementationOnce(
    () => new Promise((resolve) => (answerSlow = () => resolve({ revision: 1, time: '', contentType: '', sha256: '', size: 1, body: key('late') }))),
  )
  target.value = key('slower')
  await flushPromises()
  target.value = key('next')
  await flushPromises()
  answerSlow()
  await flushPromises()
  const shown = looked.value.status === 'found' ? new TextDecoder().decode(looked.value.bytes) : ''
  expect(shown).toBe('of next')
})
