import { mount } from '@vue/test-utils'
import { afterEach, expect, test, vi } from 'vitest'
import { nextTick } from 'vue'
import WaitingNote from './WaitingNote.vue'

afterEach(() => vi.useRealTimers())

test('says so when an answer takes long', async () => {
  vi.useFakeTimers()
  const note = mount(WaitingNote)
  expect(note.text()).toBe('Reading…')
  vi.advanceTimersByTime(3000)
  await nextTick()
  expect(note.text()).toContain('No answer yet.')
})
