import { expect, test } from 'vitest'
import { decodeText, hexDump, kindOf, prettyJson } from './kind'

const bytes = (text: string) => new TextEncoder().encode(text)
const binary = Uint8Array.from([0x89, 0x50, 0x00, 0xff])

test.each([
  ['text/plain; charset=utf-8', bytes('x'), 'text'],
  ['application/javascript', bytes('x'), 'text'],
  ['application/xhtml+xml', bytes('<x/>'), 'text'],
  ['Application/JSON', bytes('{}'), 'json'],
  ['application/problem+json', bytes('{}'), 'json'],
  ['image/png', binary, 'image'],
  ['image/tiff', binary, 'hex'],
  ['application/zip', bytes('PK'), 'hex'],
  ['application/octet-stream', bytes('plain text\n'), 'text'],
  ['application/octet-stream', binary, 'hex'],
  ['', bytes('a\u0000b'), 'hex'],
])('%s is shown as its content type says, or its bytes look', (type, value, kind) => {
  expect(kindOf(type, value)).toBe(kind)
})

test('a part that ends in the middle of a character is text still', () => {
  const part = bytes('käse').subarray(0, 2)
  expect(kindOf('application/octet-stream', part)).toBe('text')
  expect(decodeText(part, false)).toBe('k')
})

test('JSON is laid out anew and nothing else about it changes', () => {
  const json = '{"n":12345678901234567890,"n":1.0,"s":"a: [\\"b\\", {}]","e":[],"o":{},"l":[1,true,null]}'
  expect(prettyJson(json)).toBe(`{
  "n": 12345678901234567890,
  "n": 1.0,
  "s": "a: [\\"b\\", {}]",
  "e": [],
  "o": {},
  "l": [
    1,
    true,
    null
  ]
}`)
  expect(prettyJson('"alone"')).toBe('"alone"')
  expect(prettyJson('{"broken":')).toBeUndefined()
})

test('a dump has offsets, bytes and what of them is ASCII', () => {
  const value = Uint8Array.from([...bytes('0123456789abcdef'), 0x00, 0xff, 0x41])
  expect(hexDump(value)).toBe(
    '00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  0123456789abcdef\n' +
      '00000010  00 ff 41                                          ..A',
  )
})
