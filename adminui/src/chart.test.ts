import { expect, it } from 'vitest'
import { ceiling, seriesOf, span, summary } from './chart'
import { rates } from './fixtures'
import { rate } from './format'
import type { Point } from './types'

function points(...values: [second: number, gets: number][]): Point[] {
  return values.map(([second, gets]) => ({ ...rates({ gets }), revision: 0, time: new Date(second * 1000).toISOString() }))
}

const gets = (point: Point) => point.gets

it('breaks the line where nothing was heard', () => {
  expect(seriesOf(points([10, 1], [11, 2], [60, 3]), gets)).toEqual([
    [10, 11, 12, 60],
    [1, 2, null, 3],
  ])
})

it('shows a minute at least and five at most', () => {
  expect(span(seriesOf(points([100, 1], [101, 1]), gets))).toEqual([41, 101])
  expect(span(seriesOf(points([0, 1], [200, 1]), gets))).toEqual([0, 200])
  expect(span(seriesOf(points([0, 1], [1000, 1]), gets))).toEqual([700, 1000])
})

it('keeps the top of the axis above every value, and round', () => {
  expect([null, 0, 0.5, 7, 1380, 96_000].map(ceiling)).toEqual([1, 1, 0.6, 8, 1500, 150_000])
})

it('says in words what the line shows', () => {
  const series = seriesOf(points([0, 4], [120, 900], [240, 20]), gets)
  expect(summary('Gets per second', series, rate)).toBe('Gets per second over the last 4 minutes: now 20, lowest 4.0, highest 900.')
  expect(summary('Gets per second', [[], []], rate)).toBe('Gets per second: nothing is known yet.')
})
