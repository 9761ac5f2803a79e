// Problem is every way a request can fail. Its message is the server's own
// sentence, which is made for people.
export class Problem extends Error {
  readonly status: number // 0: no answer at all
  readonly title: string
  readonly detail: string
  readonly type: string
  readonly revision?: number
  readonly sha256?: string
  readonly size?: number
  readonly limitBytes?: number
  readonly retryAfter?: number // seconds

  constructor(status: number, fields: Record<string, unknown> = {}, retryAfter?: number) {
    const detail = text(fields.detail) || text(fields.title) || `The admin answered with status ${status}.`
    super(detail)
    this.name = 'Problem'
    this.status = status
    this.title = text(fields.title) || 'Error'
    this.detail = detail
    this.type = text(fields.type)
    this.revision = number(fields.revision)
    this.sha256 = text(fields.sha256) || undefined
    this.size = number(fields.size)
    this.limitBytes = number(fields.limit_bytes)
    this.retryAfter = retryAfter
  }

  // Whether the request may have been done after all: repeating the same put
  // finds out, and is always safe.
  get unknown(): boolean {
    return this.status === 504 || this.status === 500 || this.status === 0
  }
}

export async function problemOf(response: Response): Promise<Problem> {
  const seconds = Number(response.headers.get('Retry-After') ?? NaN)
  const fields = await response.json().catch(() => null) // not every proxy on the way answers in JSON
  return new Problem(
    response.status,
    typeof fields === 'object' && fields !== null ? (fields as Record<string, unknown>) : {},
    Number.isFinite(seconds) ? seconds : undefined,
  )
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined
}
