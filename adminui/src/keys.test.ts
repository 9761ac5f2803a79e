import { expect, it } from 'vitest'
import { encodeKey, keyBytes, showKey } from './keys'

it('encodes every byte of a key', () => {
  expect(encodeKey('a/../b c+d?é')).toBe('a%2F..%2Fb%20c%2Bd%3F%C3%A9')
  const all = Uint8Array.from({ length: 255 }, (_, i) => i + 1)
  const escapes = encodeKey(all).replace(/%(..)|[^%]/g, (text, hex) => hex ?? text.charCodeAt(0).toString(16).padStart(2, '0'))
  expect(escapes.toLowerCase()).toBe([...all].map((byte) => byte.toString(16).padStart(2, '0')).join(''))
})

it('reads keys that are not UTF-8 from base64', () => {
  expect(keyBytes({ key_base64: '/wBh' })).toEqual(Uint8Array.of(255, 0, 97))
})

it('shows bytes nobody can see as escapes', () => {
  expect(showKey({ key: 'a\nb\u202ec' })).toBe('a\\x0ab\\xe2\\x80\\xaec')
  expect(showKey({ key_base64: '/2E=' })).toBe('\\xffa')
})
