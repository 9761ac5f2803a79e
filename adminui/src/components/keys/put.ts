import { ref, shallowRef } from 'vue'
import { putKey, Problem, type PutAnswer } from '../../api'
import { sameKey } from '../../links'

// An intent is one put that somebody means: the same intent sent again, after
// an answer was lost, carries the same id, so that the store can tell the
// repeat of the put that won from somebody else's put of the same bytes.
export interface Intent {
  id: string
  key: Uint8Array
  value: Blob
  contentType: string
}

export type Outcome = 'created' | 'unchanged' | 'conflict' | 'unknown' | 'error'

export interface Result {
  outcome: Outcome
  intent: Intent
  answer: PutAnswer | null // of created, unchanged and conflict
  problem: Problem | null // of unknown and error
}

// intentOf is the last intent again if nothing is known of its end and nothing
// else is meant now: people press the button a second time.
export function intentOf(key: Uint8Array, value: Blob, contentType: string, last: Result | null): Intent {
  const open = last?.outcome === 'unknown' || last?.outcome === 'error'
  if (open && sameKey(last.intent.key, key) && last.intent.value === value && last.intent.contentType === contentType) {
    return last.intent
  }
  return { id: randomID(), key, value, contentType }
}

// crypto.randomUUID is missing on pages that are not served over TLS or from
// this machine.
function randomID(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('')
}

export function usePut(send: typeof putKey = putKey) {
  const busy = ref(false)
  const sent = ref(0) // bytes of the running put
  const result = shallowRef<Result | null>(null)
  let running: AbortController | null = null

  async function put(intent: Intent): Promise<void> {
    // A repeat that is refused says nothing about the put that it repeats.
    const open = result.value?.intent === intent && result.value.outcome === 'unknown'
    running = new AbortController()
    busy.value = true
    sent.value = 0
    result.value = null
    try {
      const answer = await send(intent.key, intent.value, intent.contentType, {
        id: intent.id,
        progress: (bytes) => (sent.value = bytes),
        signal: running.signal,
      })
      result.value = { outcome: answer.outcome, intent, answer, problem: null }
    } catch (err) {
      result.value = failed(intent, err, open)
    } finally {
      busy.value = false
      running = null
    }
  }

  return { busy, sent, result, put, cancel: () => running?.abort() }
}

function failed(intent: Intent, err: unknown, open: boolean): Result {
  if (err instanceof Problem) {
    return { outcome: err.unknown || open ? 'unknown' : 'error', intent, answer: null, problem: err }
  }
  // A put that was cancelled may have arrived whole before that.
  const problem = new Problem(0, { title: 'Cancelled', detail: 'The put was cancelled before its answer came. It may have happened or not.' })
  return { outcome: 'unknown', intent, answer: null, problem }
}
