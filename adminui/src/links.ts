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
  try {
    if (typeof key_base64 === 'string') {
      return keyBytes({ key_base64 })
    }
  } catch {
    return null // somebody changed the address by hand
  }
  return typeof key === 'string' && key !== '' ? keyBytes({ key }) : null
}

// keyLink is a plain address, for lists in which a router link for every row
// would cost too much.
export function keyLink(name: KeyName): string {
  return name.key_base64 === undefined
    ? `#/keys?key=${encodeURIComponent(name.key ?? '')}`
    : `#/keys?key_base64=${encodeURIComponent(name.key_base64)}`
}

export function sameKey(a: Uint8Array | null, b: Uint8Array | null): boolean {
  return a !== null && b !== null && a.length === b.length && a.every((byte, i) => byte === b[i])
}
