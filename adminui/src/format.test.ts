import { describe, expect, it } from 'vitest'
import { bytes, bytesOf, clock, count, duration, percent, rate, short, since, tick } from './format'

describe('figures', () => {
  it('keeps small numbers exact and large ones short', () => {
    expect([0, 999, 1234, 12_345, 999_950, 4_560_000].map(short)).toEqual(['0', '999', '1.23k', '12.3k', '1.00M', '4.56M'])
    expect(count(1234567)).toBe('1,234,567')
  })

  it('names bytes by powers of 1024', () => {
    expect([0, 1023, 1024, 65_536, 5_368_709_120].map(bytes)).toEqual(['0 B', '1023 B', '1.00 KiB', '64.0 KiB', '5.00 GiB'])
    expect(bytesOf(2048, 65_536)).toBe('2.00 of 64.0 KiB')
    expect(bytesOf(2048, 1_048_576)).toBe('2.00 KiB of 1.00 MiB')
    expect(bytesOf(null, 1024)).toBe('– of 1.00 KiB')
  })

  it('shows slow rates with a decimal, so that something is not nothing', () => {
    expect([0, 0.01, 0.5, 42.4, 1873.2, 15_321].map(rate)).toEqual(['0', '< 0.1', '0.5', '42', '1,873', '15.3k'])
  })

  it('keeps an axis free of zeros that say nothing', () => {
    expect([0, 0.25, 1500, 20_000, 3_000_000].map(tick)).toEqual(['0', '0.25', '1.5k', '20k', '3M'])
  })

  it('never rounds a ratio up to everything', () => {
    expect([0, 0.004, 0.5, 0.9996, 1].map(percent)).toEqual(['0 %', '0.4 %', '50 %', '99.9 %', '100 %'])
  })

  it('shows a dash for what is not known', () => {
    expect([count(null), short(undefined), bytes(NaN), rate(null), percent(null), duration(undefined)]).toEqual(Array(6).fill('–'))
  })
})

describe('times', () => {
  it('names the two largest units', () => {
    expect([0, 14, 200, 3600, 7500, 1_047_600].map(duration)).toEqual(['0 s', '14 s', '3 min 20 s', '1 h', '2 h 5 min', '12 d 3 h'])
  })

  it('says since when and how long, and the day when it was another', () => {
    const start = new Date(2026, 0, 5, 12, 3, 11).getTime()
    expect(since(start, start + 14_000)).toBe('since 12:03:11 (14 s)')
    expect(clock(start, start + 86_400_000)).toBe('2026-01-05 12:03:11')
    expect(since('', start)).toBe('')
  })
})
