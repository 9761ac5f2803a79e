import { expect, test } from 'vitest'
import type { MemberState } from '../../types'
import { freeName, hostOf, joinCommand } from './joinCommand'

const member = (i: number, status = 'up', host = `10.0.0.${i}`) =>
  ({ name: `n${i}`, status, url: `http://${host}:11000`, peer_url: `http://${host}:12000` }) as MemberState

test('joins at members that are up, three at most', () => {
  const members = [member(1, 'down'), member(2), member(3), member(4), member(5)]
  expect(joinCommand({ name: 'n6', host: '10.0.0.6', learner: false }, members)).toBe(
    'oncekv serve --name n6 --data-dir ./data/n6 \\\n' +
      '  --listen 10.0.0.6:11000 --peer-listen 10.0.0.6:12000 \\\n' +
      '  --join http://10.0.0.2:11000,http://10.0.0.3:11000,http://10.0.0.4:11000',
  )
})

test('takes the next ports where members run already', () => {
  const command = joinCommand({ name: 'n2', host: '127.0.0.1', learner: true }, [member(1, 'up', '127.0.0.1')])
  expect(command).toContain('--listen 127.0.0.1:11001 --peer-listen 127.0.0.1:12001')
  expect(command).toContain('--learner')
})

test('a name cannot end the word in a shell', () => {
  expect(joinCommand({ name: "a'; reboot", host: 'h', learner: false }, [])).toContain(`--name 'a'\\''; reboot'`)
})

test('proposes a name and a host', () => {
  expect(freeName([member(1), member(3)])).toBe('n2')
  expect(hostOf('http://[::1]:11000')).toBe('[::1]')
  expect(hostOf('nonsense')).toBe('')
})
