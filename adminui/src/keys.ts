import type { KeyName } from './types'

// Keys are bytes. On the wire they are text when they are UTF-8, else base64;
// in a query they are their bytes, percent-encoded.

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export function keyBytes(name: KeyName): Uint8Array {
  if (name.key_base64 === undefined) {
    return encoder.encode(name.key ?? '')
  }
  return Uint8Array.from(atob(name.key_base64), (c) => c.charCodeAt(0))
}

export function encodeKey(key: Uint8Array | string): string {
  const bytes = typeof key === 'string' ? encoder.encode(key) : key
  let out = ''
  for (const byte of bytes) {
    const char = String.fromCharCode(byte)
    out += /[A-Za-z0-9\-_.~]/.test(char) ? char : '%' + byte.toString(16).toUpperCase().padStart(2, '0')
  }
  return out
}

// decodeKey is the opposite of encodeKey, for keys kept in the page's own address.
export function decodeKey(encoded: string): Uint8Array {
  const bytes: number[] = []
  for (let i = 0; i < encoded.length; i++) {
    const hex = encoded[i] === '%' ? /^[0-9A-Fa-f]{2}$/.exec(encoded.slice(i + 1, i + 3)) : null
    if (hex) {
      bytes.push(parseInt(hex[0], 16))
      i += 2
    } else {
      bytes.push(...encoder.encode(encoded[i]))
    }
  }
  return Uint8Array.from(bytes)
}

// showKey is a key for people: its text, or its bytes with \x escapes where
// they are not UTF-8 or not visible.
export function showKey(name: KeyName | Uint8Array): string {
  const bytes = name instanceof Uint8Array ? name : keyBytes(name)
  try {
    return decoder.decode(bytes).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, escapeChar)
  } catch {
    return Array.from(bytes, (b) => (b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : hexEscape(b))).join('')
  }
}

function escapeChar(char: string): string {
  return Array.from(encoder.encode(char), hexEscape).join('')
}

function hexEscape(byte: number): string {
  return '\\x' + byte.toString(16).padStart(2, '0')
}
