import { expect, test } from 'vitest'
import { bytesOf, typed } from './keyInput'

test('a key is typed as text, or as bytes in hex', () => {
  expect(bytesOf({ text: 'ä/', hex: false })).toEqual(Uint8Array.of(0xc3, 0xa4, 0x2f))
  expect(bytesOf({ text: 'FF fe:2f31', hex: true })).toEqual(Uint8Array.of(0xff, 0xfe, 0x2f, 0x31))
  expect(bytesOf({ text: '', hex: true })).toEqual(new Uint8Array())
})

test('hex that is not complete is no key', () => {
  expect(bytesOf({ text: 'f', hex: true })).toBeNull()
  expect(bytesOf({ text: 'xy', hex: true })).toBeNull()
})

test('a key that is not text is shown in hex', () => {
  for (const key of [Uint8Array.of(0xff, 0x00), new TextEncoder().encode('app/x')]) {
    expect(bytesOf(typed(key))).toEqual(key)
  }
  expect(typed(Uint8Array.of(0xff, 0x0a))).toEqual({ text: 'ff 0a', hex: true })
})
