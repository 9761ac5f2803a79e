import { shallowRef } from 'vue'
import { listKeys } from '../../api'
import type { KeyRow } from '../../types'

export const keysPerPage = 50

export interface Page {
  keys: KeyRow[]
  next: string // the token of the page behind, "" on the last
}

// useKeysPage is one page of the keys. The tokens of pages lead only forward;
// it remembers which page each came from, so that one can go back.
export function useKeysPage(list: typeof listKeys = listKeys) {
  const page = shallowRef<Page | null>(null)
  const error = shallowRef<unknown>(null)
  const loading = shallowRef(false)
  const cameFrom = new Map<string, string>()
  let running: AbortController | undefined

  async function load(prefix: Uint8Array, after: string): Promise<void> {
    running?.abort()
    const { signal } = (running = new AbortController())
    loading.value = true
    try {
      const answer = await list({ prefix, after: after || undefined, limit: keysPerPage, signal })
      if (signal.aborted) {
        return
      }
      page.value = { keys: answer.keys, next: answer.next ?? '' }
      if (answer.next) {
        cameFrom.set(answer.next, after)
      }
      error.value = null
      loading.value = false
    } catch (err) {
      if (!signal.aborted) {
        error.value = err
        loading.value = false
      }
    }
  }

  // before is the token of the page in front of this one; of one that was
  // opened by its address only the first page is known.
  function before(after: string): string {
    return cameFrom.get(after) ?? ''
  }

  return { page, error, loading, load, before }
}
