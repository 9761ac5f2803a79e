import { shallowRef } from 'vue'

export interface Revised {
  revision: number
}

// A row of the feed: a change, or changes that went by too fast to be fetched.
export type Row<C extends Revised> = { id: number; change: C } | Gap

export interface Gap {
  id: string
  after: number // a replay from here shows what is missing
  until: number // the last revision that is missing
}

export type FetchChanges<C> = (query: { since: number; limit: number; prefix: string }) => Promise<C[]>

// Rows kept in all, and changes fetched at a time.
export const rowsMax = 500
export const pageSize = 100

// Rows drawn for one state when there are too many to read anyway: so few that
// the page stays fluent.
export const floodSize = 40

// With a prefix nobody knows how many of the revisions in between match, so a
// longer stretch of the history is searched before any of it is left out.
export const searchedMax = 2000

// useFeed is the list of changes, newest first: at most rowsMax rows, and one
// request at a time.
//
// It has two ways to go. Following, every request ends at the newest revision,
// and what does not fit is left out as a gap. Replaying, it goes on from where
// it is, page by page and without gaps, until it has reached the newest; from
// there it follows.
//
// advance is called with every state of the cluster, so there is at most one
// request for each.
export function useFeed<C extends Revised>(fetchChanges: FetchChanges<C>) {
  const rows = shallowRef<readonly Row<C>[]>([])
  const paused = shallowRef(false)
  const following = shallowRef(true)
  const newest = shallowRef(0)
  const cursor = shallowRef(0) // the last revision that was looked at
  const loading = shallowRef(false)
  const error = shallowRef<unknown>(null)
  let prefix = ''
  let stalled = false // the last request failed; its owner says when it is tried again
  let begun = false // a feed that follows begins with the first state
  let generation = 0 // answers to questions of an older one are dropped

  function follow(withPrefix: string): void {
    reset(withPrefix)
    following.value = true
    advance(newest.value)
  }

  function replay(since: number, withPrefix: string): void {
    reset(withPrefix)
    following.value = false
    cursor.value = since
    void next()
  }

  // again repeats what failed.
  function again(): void {
    if (following.value) {
      stalled = false
      advance(newest.value)
    } else {
      void next()
    }
  }

  function pause(on: boolean): void {
    paused.value = on
    advance(newest.value)
  }

  function advance(revision: number): void {
    newest.value = revision
    if (paused.value || !following.value || loading.value || stalled) {
      return
    }
    if (!begun && revision > 0) {
      begun = true
      cursor.value = Math.max(0, revision - stretch())
    }
    if (revision > cursor.value) {
      void fetchNewest(revision)
    }
  }

  // next is the following page of a replay.
  async function next(): Promise<void> {
    if (loading.value) {
      return
    }
    const target = newest.value
    const page = await ask(cursor.value, pageSize)
    if (page === null) {
      return
    }
    show(page)
    cursor.value = page.at(-1)?.revision ?? cursor.value
    if (page.length < pageSize) {
      // A page that is not full has reached the end of the history.
      cursor.value = Math.max(cursor.value, target)
      begun = following.value = true
      advance(newest.value)
    }
  }

  async function fetchNewest(target: number): Promise<void> {
    const before = cursor.value
    const flood = target - before > stretch()
    const since = flood ? target - (prefix === '' ? floodSize : searchedMax) : before
    const page = await ask(since, stretch())
    if (page === null) {
      return
    }
    const shown = page.slice(page.length > pageSize || flood ? -floodSize : 0)
    const missing = shown.length < page.length ? shown[0]!.revision - 1 : since
    show(shown, missing > before ? { id: `${before}-${missing}`, after: before, until: missing } : undefined)
    // The history may have gone on after the state that was the target.
    cursor.value = Math.max(target, page.at(-1)?.revision ?? 0)
  }

  async function ask(since: number, limit: number): Promise<C[] | null> {
    const asked = generation
    loading.value = true
    try {
      const page = await fetchChanges({ since, limit, prefix })
      if (asked !== generation) {
        return null
      }
      stalled = false
      error.value = null
      loading.value = false
      return page
    } catch (err) {
      if (asked === generation) {
        stalled = true
        error.value = err
        loading.value = false
      }
      return null
    }
  }

  function show(page: C[], gap?: Gap): void {
    const added: Row<C>[] = page.map((change) => ({ id: change.revision, change })).reverse()
    if (gap) {
      added.push(gap)
    }
    rows.value = added.concat(rows.value).slice(0, rowsMax)
  }

  function reset(withPrefix: string): void {
    generation++
    prefix = withPrefix
    begun = stalled = loading.value = paused.value = false
    error.value = null
    rows.value = []
    cursor.value = 0
  }

  function stretch(): number {
    return prefix === '' ? pageSize : searchedMax
  }

  return { rows, paused, following, newest, cursor, loading, error, follow, replay, pause, advance, next, again }
}
