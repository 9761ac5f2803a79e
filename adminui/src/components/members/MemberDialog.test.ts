import { flushPromises, mount } from '@vue/test-utils'
import { beforeEach, expect, test, vi } from 'vitest'
import * as api from '../../api'
import type { MemberState } from '../../types'
import MemberDialog, { type Action } from './MemberDialog.vue'

vi.mock('../../api', async (original) => ({
  ...(await original<typeof api>()),
  removeMember: vi.fn(),
  promoteMember: vi.fn(),
  transferLeadership: vi.fn(),
}))

const removeMember = vi.mocked(api.removeMember)
const member = (name: string, role: string, status = 'up') => ({ name, role, status }) as MemberState
const members = [member('n1', 'leader'), member('n2', 'follower', 'down'), member('n3', 'follower')]
const guard = 'removing n3 would leave 2 voters of which 1 can be reached: no quorum. Bring the others back first, or use ?force=true if they are permanently lost'

const hook = (id: string) => `[data-testid="${id}"]`

function ask(action: Action, name: string) {
  return mount(MemberDialog, { props: { action, name, members }, attachTo: document.body })
}

beforeEach(() => removeMember.mockReset())

test('does nothing before it is confirmed', async () => {
  const dialog = ask('transfer', 'n3')
  expect(dialog.find(hook('confirm-text')).text()).toContain('n1 hands leadership to n3.')
  expect(api.transferLeadership).not.toHaveBeenCalled()
  await dialog.find(hook('confirm-cancel')).trigger('click')
  expect(dialog.emitted('cancel')).toHaveLength(1)
  expect(api.transferLeadership).not.toHaveBeenCalled()
})

test('does what was confirmed, and says so', async () => {
  const dialog = ask('transfer', 'n3')
  await dialog.find(hook('confirm-ok')).trigger('click')
  await flushPromises()
  expect(api.transferLeadership).toHaveBeenCalledWith('n3')
  expect(dialog.emitted('done')).toEqual([['n3 leads now.']])
})

test('offers force only after the guard refused, and only to those who insist', async () => {
  removeMember.mockRejectedValueOnce(new api.Problem(409, { title: 'Cluster change refused', detail: guard }))
  const dialog = ask('remove', 'n3')
  expect(dialog.find(hook('member-force')).exists()).toBe(false)
  await dialog.find(hook('confirm-ok')).trigger('click')
  await flushPromises()
  expect(dialog.find(hook('member-refused')).text()).toContain(guard)
  expect(dialog.find(hook('confirm-ok')).exists()).toBe(false)
  await dialog.find(hook('member-force')).setValue(true)
  expect(dialog.find(hook('confirm-text')).text()).toContain('2 voters would remain; 2 of them must be up, and 1 is.')
  await dialog.find(hook('confirm-ok')).trigger('click')
  await flushPromises()
  expect(removeMember.mock.calls).toEqual([['n3', false], ['n3', true]])
  expect(dialog.emitted('done')).toHaveLength(1)
})

test('force is no answer to other refusals', async () => {
  removeMember.mockRejectedValueOnce(new api.Problem(409, { detail: 'another membership change is in progress; try again when it is done' }))
  const dialog = ask('remove', 'n3')
  await dialog.find(hook('confirm-ok')).trigger('click')
  await flushPromises()
  expect(dialog.find(hook('member-refused')).text()).toContain('another membership change')
  expect(dialog.find(hook('member-force')).exists()).toBe(false)
  await dialog.find(hook('confirm-ok')).trigger('click')
  expect(removeMember.mock.calls).toEqual([['n3', false], ['n3', false]])
})
