import { expect, test } from 'vitest'
import { canForce, force, promote, remove, tolerance, transfer, type Node } from './consequences'

const node = (name: string, role: Node['role'], status: Node['status'] = 'up'): Node => ({ name, role, status })
const three = [node('n1', 'leader'), node('n2', 'follower'), node('n3', 'follower')]

test('a majority tolerates what is left of it', () => {
  expect([1, 2, 3, 4, 5, 7, 9].map(tolerance)).toEqual([
    'no failure', 'no failure', 'one failure', 'one failure', 'two failures', 'three failures', '4 failures',
  ])
})

test('a transfer names both nodes', () => {
  expect(transfer(three, 'n2').sentences.join(' ')).toBe('n1 hands leadership to n2. Puts pause for some milliseconds. Nothing is lost.')
})

test('a removal says what remains', () => {
  const text = remove(three, 'n3').sentences.join(' ')
  expect(text).toContain('2 voters remain, which tolerate no failure.')
  expect(text).toContain('n3 stops by itself.')
  expect(text).not.toContain('hands leadership')
})

test('removing the leader, a learner, or a node that is down says so', () => {
  expect(remove(three, 'n1').sentences.join(' ')).toContain('n1 leads and hands leadership over first')
  const learner = remove([...three, node('n4', 'learner')], 'n4').sentences.join(' ')
  expect(learner).toContain('tolerates as many failures as before')
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
    'n4 becomes a voter: then there are 4, which tolerate one failure.',
    'Each put is acknowledged when 3 of them have it on disk.',
  ])
})

test('force is offered only where the refusal names it', () => {
  expect(canForce('removing n3 would leave 2 voters of which 1 can be reached: no quorum. Bring the others back first, or use ?force=true if they are lost for ever')).toBe(true)
  expect(canForce('another membership change is in progress; try again when it is done')).toBe(false)
})
