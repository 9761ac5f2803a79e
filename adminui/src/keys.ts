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
