// A digest needs all bytes in memory at once, which is too much for large files.
const digestMax = 64 << 20

// sha256Of is empty where it cannot be told: for large values, and on pages
// that are not served over TLS or from this machine, which have no digests.
export async function sha256Of(value: Blob): Promise<string> {
  if (value.size > digestMax || !crypto.subtle) {
    return ''
  }
  const digest = await crypto.subtle.digest('SHA-256', await value.arrayBuffer())
  return Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, '0')).join('')
}
