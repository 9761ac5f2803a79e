import { expect, test } from 'vitest'
import { keyLink, keyName, keyOfQuery, prefixOfQuery, prefixQuery, sameKey } from './links'

const text = new TextEncoder().encode('app/käse 1+1')
const binary = Uint8Array.from([0xff, 0xfe, 0x2f, 0x31])

test('a key goes into an address and comes back, text or not', () => {
  for (const key of [text, binary]) {
    const query = Object.fromEntries(new URLSearchParams(keyLink(keyName(key)).split('?')[1]))
    expect(keyOfQuery(query)).toEqual(key)
  }
})

test('an address without a key, or with a broken one, selects nothing', () => {
  expect(keyOfQuery({})).toBeNull()
  expect(keyOfQuery({ key: '' })).toBeNull()
  expect(keyOfQuery({ key_base64: '%%' })).toBeNull()
})

test('keys are compared by their bytes', () => {
  expect(sameKey(binary, Uint8Array.from(binary))).toBe(true)
  expect(sameKey(binary, text)).toBe(false)
  expect(sameKey(null, null)).toBe(false)
})

test('a prefix is kept beside the key', () => {
  for (const prefix of [text, binary]) {
    const query = Object.fromEntries(new URLSearchParams(keyLink(keyName(text), prefixQuery(prefix)).split('?')[1]))
    expect(prefixOfQuery(query)).toEqual(prefix)
    expect(keyOfQuery(query)).toEqual(text)
  }
  expect(prefixQuery(new Uint8Array())).toEqual({})
  expect(prefixOfQuery({})).toEqual(new Uint8Array())
})

test('a row of a list makes a link with the key alone', () => {
  expect(keyLink({ key: 'a b', key_base64: undefined })).toBe('#/keys?key=a%20b')
  expect(keyLink({ key: undefined, key_base64: '/w==' })).toBe('#/keys?key_base64=%2Fw%3D%3D')
})
