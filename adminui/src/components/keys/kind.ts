// How a value is shown. The content type decides first; bytes whose type says
// nothing (curl and many uploads send application/octet-stream) are looked at.

export type Kind = 'text' | 'json' | 'image' | 'hex'

export const kinds: readonly Kind[] = ['text', 'json', 'image', 'hex']

const images = /^image\/(png|jpeg|gif|webp|avif|bmp|svg\+xml|x-icon|vnd\.microsoft\.icon)$/
const textual = /^(text\/.*|application\/(javascript|ecmascript|xml|yaml|x-yaml|toml|x-sh|x-ndjson|sql|graphql)|.*\+(xml|yaml))$/
const opaque = /^(|application\/octet-stream|binary\/octet-stream)$/

// essence is the type without its parameters, in lower case.
export function essence(contentType: string): string {
  return (contentType.split(';')[0] ?? '').trim().toLowerCase()
}

// The kind a value is shown as until somebody chooses another.
export function kindOf(contentType: string, bytes: Uint8Array): Kind {
  const type = essence(contentType)
  if (images.test(type)) {
    return 'image'
  }
  if (type === 'application/json' || type.endsWith('+json')) {
    return 'json'
  }
  return textual.test(type) || (opaque.test(type) && readsAsText(bytes)) ? 'text' : 'hex'
}

// readsAsText tells whether bytes are UTF-8 without control characters that no
// text has. They may end in the middle of a character.
export function readsAsText(bytes: Uint8Array): boolean {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true })
    return !/[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text)
  } catch {
    return false
  }
}

// decodeText leaves out a character that is cut off at the end of a part.
export function decodeText(bytes: Uint8Array, complete: boolean): string {
  return new TextDecoder('utf-8').decode(bytes, { stream: !complete })
}

// prettyJson is undefined for what is not JSON.
//
// It lays the text out anew and does not print what it parsed: that would show
// 12345678901234567890 as 12345678901234567000 and drop the first of two equal
// names. A value never changes, least of all by being looked at.
export function prettyJson(text: string): string | undefined {
  try {
    JSON.parse(text)
  } catch {
    return undefined
  }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? []
  let depth = 0
  let out = ''
  let previous = ''
  for (const token of tokens) {
    const opened = previous === '{' || previous === '['
    const closes = token === '}' || token === ']'
    if (closes) {
      depth--
    }
    if (opened !== closes || previous === ',') {
      out += '\n' + '  '.repeat(depth)
    }
    out += token === ':' ? ': ' : token
    if (token === '{' || token === '[') {
      depth++
    }
    previous = token
  }
  return out
}

// hexDump is the classic one: offset, 16 bytes in hex, the same in ASCII.
export function hexDump(bytes: Uint8Array): string {
  const lines: string[] = []
  for (let at = 0; at < bytes.length; at += 16) {
    const row = Array.from(bytes.subarray(at, at + 16))
    const hex = row.map((b) => b.toString(16).padStart(2, '0'))
    const halves = [hex.slice(0, 8).join(' '), hex.slice(8).join(' ')].join('  ').padEnd(48)
    const ascii = row.map((b) => (b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : '.')).join('')
    lines.push(`${at.toString(16).padStart(8, '0')}  ${halves}  ${ascii}`)
  }
  return lines.join('\n')
}
