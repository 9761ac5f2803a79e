import { expect, test } from 'vitest'
import { canForce, force, promote, outlook, remove, transfer, type Node } from './consequences'

const node = (name: string, role: Node['role'], status: Node['status'] = 'up'): Node => ({ name, role, status })
const three = [node('n1', 'leader'), node('n2', 'follower'), node('n3', 'follower')]

test('says how many more may fail, and counts those that have failed already', () => {
  const some = (up: number, down: number) => [
    ...Array.from({ length: up }, (_, i) => node(`u${i}`, 'follower')),
    ...Array.from({ length: down }, (_, i) => node(`d${i}`, 'follower', 'down')),
  ]
  expect([1, 2, 3, 4, 5, 7, 9].map((n) => outlook(some(n, 0)))).toEqual([
    ': it may not fail', ': none of them may fail', ': one of them may fail', ': one of them may fail', ': two of them may fail', ': three of them may fail', ': 4 of them may fail',
  ])
  expect(outlook(some(2, 1))).toBe(', of which 2 are up: none of them may fail')
  expect(outlook(some(4, 1))).toBe(', of which 4 are up: one of them may fail')
  expect(outlook(some(1, 2))).toBe(', of which 1 is up: too few, 2 are needed')
})

test('a transfer names both nodes', () => {
  expect(transfer(three, 'n2').sentences.join(' ')).toBe('n1 hands leadership to n2. Puts pause for some milliseconds. Nothing is lost.')
})

test('a removal says what remains', () => {
  const text = remove(three, 'n3').sentences.join(' ')
  expect(text).toContain('2 voters remain: none of them may fail.')
  expect(text).toContain('n3 stops by itself.')
  expect(text).not.toContain('hands leadership')
})

test('removing the leader, a learner, or a node that is down says so', () => {
  expect(remove(three, 'n1').sentences.join(' ')).toContain('n1 leads and hands leadership over first')
  const learner = remove([...three, node('n4', 'learner')], 'n4').sentences.join(' ')
  expect(learner).toContain('no fewer of the others may fail than before')
  expect(learner).not.toContain('voters remain')
  const down = remove([...three.slice(0, 2), node('n3', 'follower', 'down')], 'n3').sentences.join(' ')
  expect(down).toContain('n3 is down now')
  expect(down).not.toContain('stops by itself')
})

test('force counts those that are left', () => {
  const nodes = [node('n1', 'leader'), node('n2', 'follower', 'down'), node('n3', 'follower')]
  expect(force(nodes, 'n3').sentences[0]).toBe('2 voters would remain; 2 of them must be up, and 1 is.')
})

test('a promotion says how many must have each put', () => {
  expect(promote([...three, node('n4', 'learner')], 'n4').sentences.slice(0, 2)).toEqual([
    'n4 becomes a voter. Then there are 4: one of them may fail.',
    'Each put is acknowledged when 3 of them have it on disk.',
  ])
})

test('force is offered only where the refusal names it', () => {
  expect(canForce('removing n3 would leave 2 voters of which 1 can be reached: no quorum. Bring the others back first, or use ?force=true if they are permanently lost')).toBe(true)
  expect(canForce('another membership change is in progress; try again when it is done')).toBe(false)
})
