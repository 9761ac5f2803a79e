import type { Point } from './types'

export type Series = [number[], (number | null)[]]

const gapSeconds = 3 // points come every second; a line over a longer silence would be made up
const windowSeconds = 300
const windowLeast = 60

// seriesOf makes columns of seconds and values, broken where nothing is known.
export function seriesOf(points: readonly Point[], pick: (point: Point) => number | null): Series {
  const times: number[] = []
  const values: (number | null)[] = []
  for (const point of points) {
    const time = Date.parse(point.time) / 1000
    const last = times[times.length - 1]
    if (last !== undefined && time - last > gapSeconds) {
      times.push(last + 1)
      values.push(null)
    }
    times.push(time)
    values.push(pick(point))
  }
  return [times, values]
}

// span is the stretch of time to show: the last five minutes, or less while
// less is known.
export function span([times]: Series): [number, number] {
  const end = times[times.length - 1] ?? 0
  const begin = times[0] ?? 0
  return [Math.max(end - windowSeconds, Math.min(begin, end - windowLeast)), end]
}

// ceiling is a round number above all values, so that the axis seldom moves.
export function ceiling(most: number | null): number {
  if (most === null || most <= 0) {
    return 1
  }
  const magnitude = 10 ** Math.floor(Math.log10(most))
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((s) => s * magnitude >= most * 1.05) ?? 15
  return Number((step * magnitude).toPrecision(2)) // 0.6, not 0.6000000000000001
}

// summary says in words what the line shows.
export function summary(title: string, series: Series, format: (value: number | null) => string): string {
  const known = series[1].filter((value) => value !== null)
  if (known.length === 0) {
    return `${title}: nothing is known yet.`
  }
  const [begin, end] = span(series)
  const minutes = Math.max(1, Math.round((end - begin) / 60))
  const stretch = minutes === 1 ? 'minute' : `${minutes} minutes`
  const now = series[1][series[1].length - 1] ?? null
  return `${title} over the last ${stretch}: now ${format(now)}, lowest ${format(Math.min(...known))}, highest ${format(Math.max(...known))}.`
}
