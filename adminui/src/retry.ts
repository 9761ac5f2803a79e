import { onScopeDispose, ref, watch, type Ref } from 'vue'
import { Problem } from './problem'

// Seconds between tries; the last one repeats.
const pauses = [1, 2, 4, 8, 15]

// pauseAfter returns how many seconds to wait after so many failures in a row.
export function pauseAfter(failures: number): number {
  return pauses[Math.min(failures, pauses.length) - 1]!
}

// passing tells a failure that may be over at the next try from an answer that
// would be the same again.
export function passing(error: unknown): boolean {
  return error instanceof Problem && (error.status === 0 || error.status === 408 || error.status === 429 || error.status >= 500)
}

// useRetry tries again for as long as error says that the last try failed: after
// longer and longer pauses, and at once when the cluster comes back. It returns
// since when it fails, 0 while it does not.
export function useRetry(error: Readonly<Ref<unknown>>, again: () => void, back?: Readonly<Ref<boolean>>) {
  const since = ref(0)
  let failures = 0
  let timer: ReturnType<typeof setTimeout> | undefined

  watch(
    error,
    (now) => {
      clearTimeout(timer)
      if (!passing(now)) {
        since.value = failures = 0
        return
      }
      since.value ||= Date.now()
      const pause = Math.max(pauseAfter(++failures), (now as Problem).retryAfter ?? 0)
      timer = setTimeout(again, pause * 1000)
    },
    { flush: 'sync', immediate: true },
  )
  if (back) {
    watch(back, (now) => {
      if (now && since.value > 0) {
        clearTimeout(timer)
        failures = 0
        again()
      }
    })
  }
  onScopeDispose(() => clearTimeout(timer))
  return since
}
