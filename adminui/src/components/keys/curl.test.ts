import { expect, test } from 'vitest'
import type { State } from '../../types'
import { curlLine, fileName } from './curl'

const bytes = (text: string) => new TextEncoder().encode(text)
const state = {
  members: [
    { status: 'down', url: 'http://10.0.0.1:11000' },
    { status: 'up', url: 'http://10.0.0.2:11000' },
  ],
} as State

test('asks a node that is up, and nothing in a key escapes from the quotes', () => {
  expect(curlLine(bytes("it's/$(reboot) é"), state)).toBe(
    "curl -f -o __reboot___ 'http://10.0.0.2:11000/key?key=it%27s%2F%24%28reboot%29%20%C3%A9'",
  )
})

test('names a file after the last part of the key', () => {
  expect(fileName(bytes('app/v1/main.js'))).toBe('main.js')
  expect(fileName(bytes('app/v1/'))).toBe('v1')
  expect(fileName(bytes('a/..'))).toBe('value')
  expect(fileName(bytes('-rf'))).toBe('rf')
  expect(fileName(Uint8Array.of(0xff))).toBe('_')
})
