import { encodeKey } from '../../keys'
import type { State } from '../../types'

// curlLine fetches a value from a database node that is up: scripts ask the
// cluster, not the page's admin. An encoded key has no character that a shell
// would take apart between quotes.
export function curlLine(key: Uint8Array, state: State | null): string {
  const node = state?.members.find((m) => m.status === 'up')
  const base = node ? node.url : `${location.origin}/api`
  return `curl -f -o ${fileName(key)} '${base}/key?key=${encodeKey(key)}'`
}

// fileName is the last part of a key, as far as any system takes it for a name.
export function fileName(key: Uint8Array): string {
  const last = new TextDecoder().decode(key).split('/').filter(Boolean).at(-1) ?? ''
  return last.replace(/[^\w.-]/g, '_').replace(/^[.-]+/, '').slice(0, 80) || 'value'
}
