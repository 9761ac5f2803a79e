const collator = new Intl.Collator('en', { numeric: true })

// byName sorts c2 before c10.
export function byName<T extends { name: string }>(nodes: readonly T[]): T[] {
  return [...nodes].sort((a, b) => collator.compare(a.name, b.name))
}
