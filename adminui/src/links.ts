import { keyBytes } from './keys'
import type { KeyName } from './types'

// A key in the page's own address: as text when it is UTF-8, else as base64,
// just as the API names it.

type Query = Record<string, unknown>

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export function keyName(bytes: Uint8Array): KeyName {
  try {
    return { key: decoder.decode(bytes) }
  } catch {
    return { key_base64: btoa(String.fromCharCode(...bytes)) }
  }
}

// keyOfQuery is the key that an address selects, if it does.
export function keyOfQuery({ key, key_base64 }: Query): Uint8Array | null {
  return bytesOf(key, key_base64)
}

// prefixOfQuery is empty for an address without one: every key begins so.
export function prefixOfQuery({ prefix, prefix_base64 }: Query): Uint8Array {
  return bytesOf(prefix, prefix_base64) ?? new Uint8Array()
}

export function prefixQuery(bytes: Uint8Array): Record<string, string> {
  const { key, key_base64 } = keyName(bytes)
  if (key_base64 !== undefined) {
    return { prefix_base64: key_base64 }
  }
  return key ? { prefix: key } : {}
}

function bytesOf(text: unknown, base64: unknown): Uint8Array | null {
  if (typeof text === 'string' && text !== '') {
    return keyBytes({ key: text })
  }
  try {
    return typeof base64 === 'string' ? keyBytes({ key_base64: base64 }) : null
  } catch {
    return null // somebody changed the address by hand
  }
}

// keyLink is a plain address, for lists in which a router link for every row
// would cost too much. rest is what else the address keeps.
export function keyLink({ key = '', key_base64 }: KeyName, rest: Record<string, string> = {}): string {
  const fields = { ...rest, ...(key_base64 === undefined ? { key } : { key_base64 }) }
  return '#/keys?' + Object.entries(fields).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&')
}

export function sameKey(a: Uint8Array | null, b: Uint8Array | null): boolean {
  return a !== null && b !== null && a.length === b.length && a.every((byte, i) => byte === b[i])
}
