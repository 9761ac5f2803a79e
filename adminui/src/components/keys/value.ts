import { shallowRef, watch, type WatchSource } from 'vue'
import { Problem, readKey, type Found } from '../../api'

// As much of a value is fetched as somebody may want to read on a page.
export const previewBytes = 64 << 10

export type Looked =
  | { status: 'none' | 'loading' | 'absent' }
  | { status: 'found'; found: Found; bytes: Uint8Array }
  | { status: 'failed'; error: unknown }

// useValue looks at a key, and at the next one when it changes.
export function useValue(key: WatchSource<Uint8Array | null>, limit = previewBytes, read: typeof readKey = readKey) {
  const looked = shallowRef<Looked>({ status: 'none' })
  let current: Uint8Array | null = null
  let running: AbortController | undefined

  async function look(): Promise<void> {
    running?.abort()
    if (current === null) {
      looked.value = { status: 'none' }
      return
    }
    const { signal } = (running = new AbortController())
    if (looked.value.status !== 'failed') {
      looked.value = { status: 'loading' } // what went wrong stays in sight until it works
    }
    try {
      const { body, ...found } = await read(current, limit, signal)
      if (!signal.aborted) {
        looked.value = { status: 'found', found, bytes: body }
      }
    } catch (error) {
      if (!signal.aborted) {
        looked.value = error instanceof Problem && error.status === 404 ? { status: 'absent' } : { status: 'failed', error }
      }
    }
  }

  watch(
    key,
    (next) => {
      current = next
      looked.value = { status: 'none' }
      void look()
    },
    { immediate: true },
  )

  return { looked, again: look }
}
