import { mount } from '@vue/test-utils'
import { expect, test } from 'vitest'
import { member, noon } from '../../fixtures'
import type { MemberState } from '../../types'
import MemberTable from './MemberTable.vue'

function offered(members: MemberState[], able = true) {
  const table = mount(MemberTable, { props: { members, now: noon, able } })
  const of = (name: string) => table.get(`[data-name=${name}]`)
  return (name: string) => of(name).findAll('button').map((b) => b.attributes('data-testid') + (b.attributes('disabled') === undefined ? '' : ' off'))
}

const leader = member('n1', { role: 'leader' })

test('offers the leadership to live voters only', () => {
  const buttons = offered([
    leader,
    member('n2'),
    member('n3', { status: 'down' }),
    member('n4', { status: 'starting' }),
    member('n5', { healthy: false }),
  ])
  expect(['n1', 'n2', 'n3', 'n4', 'n5'].map(buttons)).toEqual([
    ['member-remove'], ['member-transfer', 'member-remove'], ['member-remove'], ['member-remove'], ['member-remove'],
  ])
})

test('offers a vote to learners that are up', () => {
  const buttons = offered([leader, member('n2', { role: 'learner' }), member('n3', { role: 'learner', status: 'down' }), member('n4', { role: 'learner', status: 'starting' })])
  expect(['n2', 'n3', 'n4'].map(buttons)).toEqual([['member-promote', 'member-remove'], ['member-remove'], ['member-remove']])
})

test('never offers to remove the last voter', () => {
  const buttons = offered([leader, member('n2', { role: 'learner' })])
  expect(buttons('n1')).toEqual([])
})

test('offers nothing while nothing can be changed', () => {
  const buttons = offered([leader, member('n2')], false)
  expect(buttons('n2')).toEqual(['member-transfer off', 'member-remove off'])
})
