// What a change of the members will do to this cluster, in words. Nothing here
// decides anything: the cluster's own guard does, and its reason is shown.

export interface Node {
  name: string
  role: 'leader' | 'follower' | 'learner'
  status: 'up' | 'starting' | 'down'
}

export interface Consequence {
  title: string
  sentences: string[]
  action: string // the words on the button
  danger: boolean
}

function voters(nodes: Node[]): Node[] {
  return nodes.filter((n) => n.role !== 'learner')
}

// outlook says of voters how many more of them may be down while the others still
// have a majority.
export function outlook(nodes: Node[]): string {
  const up = nodes.filter((n) => n.status !== 'down').length
  const some = up < nodes.length ? `, of which ${up} ${up === 1 ? 'is' : 'are'} up` : ''
  const spare = up - majority(nodes.length)
  if (spare < 0) {
    return `${some}: too few, ${majority(nodes.length)} are needed`
  }
  const words = ['none', 'one', 'two', 'three']
  return nodes.length === 1 ? `${some}: it may not fail` : `${some}: ${words[spare] ?? spare} of them may fail`
}

function remain(rest: Node[]): string {
  return rest.length === 1 ? `1 voter remains${outlook(rest)}.` : `${rest.length} voters remain${outlook(rest)}.`
}

function majority(count: number): number {
  return Math.floor(count / 2) + 1
}

export function transfer(nodes: Node[], to: string): Consequence {
  const leader = nodes.find((n) => n.role === 'leader')
  return {
    title: `Make ${to} the leader?`,
    sentences: [
      leader ? `${leader.name} hands leadership to ${to}.` : `${to} becomes the leader.`,
      'Puts pause for some milliseconds. Nothing is lost.',
    ],
    action: 'Transfer leadership',
    danger: false,
  }
}

export function promote(nodes: Node[], name: string): Consequence {
  const all = nodes.filter((n) => n.role !== 'learner' || n.name === name)
  const after = all.length
  return {
    title: `Give ${name} a vote?`,
    sentences: [
      `${name} becomes a voter. Then there are ${after}${outlook(all)}.`,
      `Each put is acknowledged when ${majority(after)} of them have it on disk.`,
      'It is refused while the learner is behind.',
    ],
    action: 'Promote',
    danger: false,
  }
}

export function remove(nodes: Node[], name: string): Consequence {
  const node = nodes.find((n) => n.name === name)
  const rest = voters(nodes).filter((n) => n.name !== name)
  const sentences = [`${name} leaves the cluster permanently.`]
  if (node?.role === 'learner') {
    sentences.push('It has no vote, so no fewer of the others may fail than before.')
  } else {
    sentences.push(remain(rest))
  }
  if (node?.role === 'leader' && rest.length > 0) {
    sentences.push(`${name} leads and hands leadership over first. Puts pause for some milliseconds.`)
  }
  sentences.push(
    node?.status === 'down'
      ? `${name} is down now. If it starts again it is told that it was removed, and stops.`
      : `${name} stops by itself.`,
    'Its data directory can be deleted. Nothing is lost.',
  )
  return { title: `Remove ${name}?`, sentences, action: `Remove ${name}`, danger: true }
}

// force is for a removal that the guard refused.
export function force(nodes: Node[], name: string): Consequence {
  const rest = voters(nodes).filter((n) => n.name !== name)
  const up = rest.filter((n) => n.status === 'up').length
  return {
    title: `Remove ${name} by force?`,
    sentences: [
      `${rest.length} voters would remain; ${majority(rest.length)} of them must be up, and ${up} ${up === 1 ? 'is' : 'are'}.`,
      'So the cluster stops taking puts, and cannot confirm that a key is not set, until enough of the others are back. Values that are set can still be read.',
      'This cannot be undone: use it only if the others that are down are permanently lost and will be removed next.',
    ],
    action: 'Remove by force',
    danger: true,
  }
}

// canForce: a refusal says itself when force would help.
export function canForce(detail: string): boolean {
  return detail.includes('force=true')
}
