import { encodeKey } from './keys'
import { Problem, problemOf } from './problem'
import { upload } from './upload'
import type { Change, KeyName, KeysPage, Member, Members, NewMember, Owner } from './types'

export { Problem } from './problem'

type Key = Uint8Array | string

export interface Found {
  revision: number
  time: string
  contentType: string
  sha256: string
  size: number // of the whole value
}

export interface PutAnswer extends KeyName {
  outcome: 'created' | 'unchanged' | 'conflict'
  revision: number
  sha256: string
  size: number
  detail: string // of a conflict: the server's sentence
}

async function send(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, init)
  } catch (cause) {
    if (init.signal?.aborted) {
      throw cause
    }
    throw new Problem(0, { title: 'No answer', detail: 'The admin did not answer: the connection failed.' })
  }
  if (!response.ok) {
    throw await problemOf(response)
  }
  return response
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await send(path, init)
  return (await response.json()) as T
}

function post(body?: unknown): RequestInit {
  return body === undefined
    ? { method: 'POST' }
    : { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }
}

// keyURL is where a value is, for links, images and downloads.
export function keyURL(key: Key): string {
  return `/api/key?key=${encodeKey(key)}`
}

export interface ListOptions {
  prefix?: Key
  after?: string
  limit?: number
  signal?: AbortSignal
}

export function listKeys({ prefix, after, limit, signal }: ListOptions = {}): Promise<KeysPage> {
  return json(`/api/keys${query({ prefix, after, limit })}`, { signal })
}

export async function headKey(key: Key, signal?: AbortSignal): Promise<Found> {
  return found(await send(keyURL(key), { method: 'HEAD', cache: 'no-cache', signal }))
}

// readKey reads a value, at most the first limit bytes of it. A value never
// changes, but a cluster at the same address may be another than yesterday's, so
// what the browser has kept is confirmed.
export async function readKey(key: Key, limit: number, signal?: AbortSignal): Promise<Found & { body: Uint8Array }> {
  try {
    const response = await send(keyURL(key), { headers: { Range: `bytes=0-${limit - 1}` }, cache: 'no-cache', signal })
    return { ...found(response), body: new Uint8Array(await response.arrayBuffer()) }
  } catch (problem) {
    if (problem instanceof Problem && problem.status === 416) {
      return { ...(await headKey(key, signal)), body: new Uint8Array() } // an empty value has no first byte
    }
    throw problem
  }
}

function found(response: Response): Found {
  const headers = response.headers
  const total = /\/(\d+)$/.exec(headers.get('Content-Range') ?? '')?.[1] ?? headers.get('Content-Length')
  return {
    revision: Number(headers.get('Oncekv-Revision')),
    time: headers.get('Oncekv-Time') ?? '',
    contentType: headers.get('Content-Type') ?? 'application/octet-stream',
    sha256: (headers.get('ETag') ?? '').replace(/^"|"$/g, ''),
    size: Number(total ?? 0),
  }
}

export interface PutOptions {
  id?: string // the same for every repeat of one put, so that it can be told from another's
  progress?: (sent: number) => void
  signal?: AbortSignal
  send?: typeof upload
}

// putKey sets a key. A conflict is an answer, not an error: it names the winner.
export async function putKey(key: Key, value: Blob, contentType: string, options: PutOptions = {}): Promise<PutAnswer> {
  const { id, progress, signal, send = upload } = options
  const headers: Record<string, string> = {}
  if (contentType) {
    headers['Content-Type'] = contentType
  }
  if (id) {
    headers['Oncekv-Put-Id'] = id
  }
  const response = await send({ url: keyURL(key), body: value, headers, progress, signal })
  if (response.ok) {
    const answer = (await response.json()) as KeyName & { revision: number; sha256: string; size: number; created: boolean }
    return { ...answer, outcome: answer.created ? 'created' : 'unchanged', detail: '' }
  }
  const problem = await problemOf(response)
  if (problem.status === 409 && problem.revision !== undefined) {
    const { revision, sha256 = '', size = 0, detail } = problem
    return { outcome: 'conflict', revision, sha256, size, detail }
  }
  throw problem
}

export interface ChangesOptions {
  since: number
  limit?: number
  prefix?: Key
  signal?: AbortSignal
}

export async function listChanges({ since, limit, prefix, signal }: ChangesOptions): Promise<Change[]> {
  const response = await send(`/api/changes${query({ since, limit, prefix })}`, { signal })
  const lines = (await response.text()).split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as Change)
}

export function listMembers(signal?: AbortSignal): Promise<Members> {
  return json('/api/members', { signal })
}

export function addMember(member: NewMember): Promise<Member> {
  return json('/api/members', post(member))
}

export async function removeMember(name: string, force = false): Promise<void> {
  await send(`/api/members/${encodeURIComponent(name)}${force ? '?force=true' : ''}`, { method: 'DELETE' })
}

export async function promoteMember(name: string): Promise<void> {
  await send(`/api/members/${encodeURIComponent(name)}/promote`, post())
}

export async function transferLeadership(to: string): Promise<void> {
  await send('/api/leader', post({ to }))
}

// ownerOf is the cache node that holds a key in its memory.
export function ownerOf(key: Key, signal?: AbortSignal): Promise<Owner> {
  return json(`/owner?key=${encodeKey(key)}`, { signal })
}

// query leaves out what is not given; the server refuses parameters it does
// not know or understand.
function query(parameters: Record<string, Key | number | undefined>): string {
  const parts = Object.entries(parameters)
    .filter(([, value]) => value !== undefined && value.toString() !== '')
    .map(([name, value]) => `${name}=${encodeKey(typeof value === 'number' ? String(value) : value!)}`)
  return parts.length > 0 ? '?' + parts.join('&') : ''
}
