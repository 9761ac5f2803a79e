import { afterEach, expect, it, vi } from 'vitest'
import { listChanges, listKeys, Problem, putKey, readKey } from './api'
import type { Upload } from './upload'

function answer(status: number, body: string, headers: Record<string, string> = {}) {
  const fetched = vi.fn<(path: string, init?: RequestInit) => Promise<Response>>(async () => new Response(body, { status, headers }))
  vi.stubGlobal('fetch', fetched)
  return fetched
}

afterEach(() => vi.unstubAllGlobals())

it('sends the bytes of a key, and only the parameters that are given', async () => {
  const fetched = answer(200, '{"keys":[]}')
  await listKeys({ prefix: Uint8Array.of(255, 47), limit: 50, after: '' })
  expect(fetched.mock.calls[0]![0]).toBe('/api/keys?prefix=%FF%2F&limit=50')
})

function put(status: number, body: string, headers?: Record<string, string>, id?: string) {
  const send = vi.fn(async (_: Upload) => new Response(body, { status, headers }))
  const answer = putKey('k', new Blob(['v']), 'text/plain', { id, send })
  return { answer: answer.catch((e: unknown) => e), sent: send.mock.calls[0]![0] }
}

it('takes a conflict for an answer that names the winner', async () => {
  const { answer } = put(409, '{"title":"Conflict","detail":"set before","revision":7,"sha256":"ab","size":3}')
  expect(await answer).toMatchObject({ outcome: 'conflict', revision: 7, sha256: 'ab', size: 3, detail: 'set before' })
})

it('throws what the server says, and when to try again', async () => {
  const { answer } = put(503, '{"detail":"no leader is known"}', { 'Retry-After': '2' })
  const problem = await answer
  expect(problem).toBeInstanceOf(Problem)
  expect(problem).toMatchObject({ status: 503, detail: 'no leader is known', retryAfter: 2, unknown: false })
})

it.each([500, 504])('does not know what became of a put that was answered with %i', async (status) => {
  expect(await put(status, '{"detail":"repeat it"}').answer).toMatchObject({ unknown: true, detail: 'repeat it' })
})

it('names a put, so that its repeat is told from others', async () => {
  const { answer, sent } = put(201, '{"key":"k","revision":1,"sha256":"ab","size":1,"created":true}', {}, 'one')
  expect(sent.headers).toEqual({ 'Content-Type': 'text/plain', 'Oncekv-Put-Id': 'one' })
  expect(await answer).toMatchObject({ outcome: 'created', revision: 1 })
})

it('reads the beginning of a value and the size of all of it', async () => {
  const fetched = answer(206, 'abc', { 'Content-Range': 'bytes 0-2/1000', 'Oncekv-Revision': '9', ETag: '"ff"', 'Content-Type': 'text/plain' })
  expect(await readKey('k', 3)).toMatchObject({ size: 1000, revision: 9, sha256: 'ff', contentType: 'text/plain' })
  expect(fetched.mock.calls[0]![1]!.headers).toEqual({ Range: 'bytes=0-2' })
})

it('reads changes line by line', async () => {
  answer(200, '{"revision":1,"key":"a"}\n{"revision":2,"key_base64":"/w=="}\n')
  expect((await listChanges({ since: 0 })).map((c) => c.revision)).toEqual([1, 2])
})
