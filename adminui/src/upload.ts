import { Problem } from './problem'

export interface Upload {
  url: string
  body: Blob
  headers: Record<string, string>
  progress?: (sent: number) => void
  signal?: AbortSignal
}

// upload is a PUT whose body may be large. It is an XMLHttpRequest, because
// fetch cannot say how much of a body has been sent.
export function upload({ url, body, headers, progress, signal }: Upload): Promise<Response> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    request.open('PUT', url)
    for (const [name, value] of Object.entries(headers)) {
      request.setRequestHeader(name, value)
    }
    if (progress) {
      request.upload.addEventListener('progress', (event) => progress(event.loaded))
    }
    request.addEventListener('load', () => resolve(responseOf(request)))
    request.addEventListener('error', () => reject(noAnswer()))
    request.addEventListener('abort', () => reject(new DOMException('cancelled', 'AbortError')))
    signal?.addEventListener('abort', () => request.abort(), { once: true })
    request.send(body)
  })
}

function responseOf(request: XMLHttpRequest): Response {
  const retryAfter = request.getResponseHeader('Retry-After')
  return new Response(request.responseText, {
    status: request.status,
    headers: retryAfter === null ? {} : { 'Retry-After': retryAfter },
  })
}

// An answer that came before all of the body was sent may be lost like this.
function noAnswer(): Problem {
  return new Problem(0, {
    title: 'No answer',
    detail: 'The connection broke before the answer came. The put may have happened or not; repeating the same put is safe and shows the outcome.',
  })
}
