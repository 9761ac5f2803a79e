import type { MemberState } from '../../types'

export interface NewNode {
  name: string
  host: string
  learner: boolean
}

// freeName is the first of n1, n2, … that no member has.
export function freeName(members: MemberState[]): string {
  const taken = new Set(members.map((m) => m.name))
  let i = 1
  while (taken.has(`n${i}`)) {
    i++
  }
  return `n${i}`
}

// One member is enough to join at; three, so that one may be down by then.
const joinAt = 3

// joinCommand starts a node that enters this cluster.
export function joinCommand({ name, host, learner }: NewNode, members: MemberState[]): string {
  const up = members.filter((m) => m.status === 'up')
  const join = (up.length > 0 ? up : members).slice(0, joinAt).map((m) => m.url).join(',')
  const port = freePorts(host, members)
  return [
    `oncekv serve --name ${word(name)} --data-dir ./data/${word(name)}`,
    `--listen ${host}:${port.client} --peer-listen ${host}:${port.peer}`,
    `--join ${join}${learner ? ' --learner' : ''}`,
  ].join(' \\\n  ')
}

// freePorts are the usual ones, or on a host that has members the next ones
// after theirs.
function freePorts(host: string, members: MemberState[]): { client: number; peer: number } {
  const here = members.filter((m) => hostOf(m.url) === host)
  return {
    client: Math.max(10999, ...here.map((m) => portOf(m.url))) + 1,
    peer: Math.max(11999, ...here.map((m) => portOf(m.peer_url))) + 1,
  }
}

// hostOf is an address's host; for the form's first proposal.
export function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).hostname : ''
}

function portOf(url: string): number {
  return URL.canParse(url) ? Number(new URL(url).port) : 0
}

// word quotes what a shell would take apart.
function word(text: string): string {
  return /^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
