// A key as somebody types it: text, or its bytes in hex for keys that are not
// text.
export interface TypedKey {
  text: string
  hex: boolean
}

// bytesOf is null for hex that is not complete; whether the bytes make a valid
// key is for the store to say.
export function bytesOf({ text, hex }: TypedKey): Uint8Array | null {
  if (!hex) {
    return new TextEncoder().encode(text)
  }
  const digits = text.replace(/[\s:]/g, '')
  if (digits.length % 2 !== 0 || /[^0-9a-fA-F]/.test(digits)) {
    return null
  }
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16))
}

// typed is the opposite.
export function typed(bytes: Uint8Array): TypedKey {
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), hex: false }
  } catch {
    return { text: Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join(' '), hex: true }
  }
}
