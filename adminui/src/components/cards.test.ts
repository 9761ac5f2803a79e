import { mount } from '@vue/test-utils'
import { describe, expect, it } from 'vitest'
import { cache, cacheStats, databaseStats, member, noon } from '../fixtures'
import type { Scrub } from '../types'
import CacheCard from './CacheCard.vue'
import DatabaseCard from './DatabaseCard.vue'

function figures(card: { findAll: (s: string) => { find: (s: string) => { text: () => string } }[] }): Record<string, string> {
  return Object.fromEntries(card.findAll('dl > div').map((pair) => [pair.find('dt').text(), pair.find('dd').text()]))
}

describe('the card of a database node', () => {
  it('marks the leader with the word, and nobody else', () => {
    const leader = mount(DatabaseCard, { props: { node: member('n1', { role: 'leader' }), now: 0 } })
    expect(leader.get('[data-testid=leader-mark]').text()).toBe('leader')
    expect(leader.get('[data-testid=db-card]').attributes()).toMatchObject({ 'data-name': 'n1', 'data-status': 'up', 'data-role': 'leader' })
    const follower = mount(DatabaseCard, { props: { node: member('n2'), now: 0 } })
    expect(follower.find('[data-testid=leader-mark]').exists()).toBe(false)
    expect(follower.text()).toContain('follower')
  })

  it('shows the figures of the node', () => {
    const node = member('n1', { lag: 1200, rates: { puts: 2.5, gets: 40 }, stats: databaseStats({ applied_index: 30_118, uptime_seconds: 7500 }) })
    expect(figures(mount(DatabaseCard, { props: { node, now: noon } }))).toEqual({
      Revision: '90', 'Applied index': '30,118', Lag: '1,200 behind', 'Puts/s · gets/s': '2.5 · 40',
      'Disk used': '17.0 KiB', 'Disk free': '5.00 GiB', 'Live · dead': '6.00 KiB · 1.00 KiB', Reclaimed: '3.00 KiB',
      Scrub: 'ok, 2 h ago', Version: '1.0.0', Uptime: '2 h 5 min',
    })
  })

  it('says how far a scrub is, and marks what one has found', () => {
    const scrubbing = (scrub: Scrub) => mount(DatabaseCard, { props: { node: member('n1', { stats: databaseStats({ scrub }) }), now: noon } }).get('[data-testid=scrub]')
    expect(scrubbing({ running: true, fraction: 0.429, last_took_seconds: 0 }).text()).toBe('Scrub42 % read')
    expect(scrubbing({ running: false, fraction: 0, last_took_seconds: 0 }).text()).toBe('Scrub–')
    const end = new Date(noon - 60_000).toISOString()
    const found = scrubbing({ running: false, fraction: 0, last_end: end, last_took_seconds: 1, last_result: 'x is damaged' })
    expect(found.text()).toBe('Scrubdamage, 1 min ago')
    expect(found.attributes('title')).toBe('x is damaged')
    expect(found.classes()).toContain('damaged')
  })

  it('says since when a node is down and why, and lets the time pass', async () => {
    const node = member('n3', { status: 'down', reason: 'connection refused' })
    const card = mount(DatabaseCard, { props: { node, now: noon + 14_000 } })
    expect(card.text()).toContain('down since 12:03:11 (14 s): connection refused')
    expect(card.get('[data-testid=db-card]').attributes('data-status')).toBe('down')
    await card.setProps({ now: noon + 15_000 })
    expect(card.text()).toContain('(15 s)')
  })

  it('warns of a disk that is nearly full, and of a node the cluster does not hear', () => {
    const node = member('n1', { healthy: false, stats: databaseStats({ disk_low: true }) })
    const card = mount(DatabaseCard, { props: { node, now: 0 } })
    expect(figures(card)['Disk free']).toBe('5.00 GiB (low)')
    expect(card.text()).toContain('The other nodes do not hear it.')
  })

  it('makes nothing up about a node that has never answered', () => {
    const card = mount(DatabaseCard, { props: { node: member('n4', { status: 'starting', stats: null }), now: noon } })
    expect(figures(card)).toMatchObject({ Revision: '–', Lag: '–', 'Disk used': '–', 'Live · dead': '– · –', Scrub: '–', Uptime: '–' })
  })
})

describe('the card of a cache node', () => {
  it('shows hits, loads, absences, memory and the share of the ring', () => {
    const card = mount(CacheCard, { props: { node: cache('c1'), now: 0 } })
    expect(figures(card)).toEqual({ Memory: '16.0 of 64.0 MiB', Hits: '150', Loads: '50', Absences: '7', 'Share of the ring': '25 %' })
    expect(card.findAll('.rates span').map((part) => part.text())).toEqual(['12 gets/s', '75 % hits'])
    expect(card.get('[role=progressbar]').attributes()).toMatchObject({ 'aria-valuenow': '25', 'aria-label': 'Memory of c1: 16.0 of 64.0 MiB' })
  })

  it('says since when it is down', () => {
    const node = cache('c9', { status: 'down', reason: 'no heartbeat for 2 s' })
    const card = mount(CacheCard, { props: { node, now: noon + 3_000 } })
    expect(card.text()).toContain('down since 12:03:11 (3 s): no heartbeat for 2 s')
    expect(card.text()).not.toContain('gets/s')
  })

  it('does not call a node dead that was told to stop', () => {
    const node = cache('c9', { status: 'down', left: true, reason: 'it was stopped, and said goodbye' })
    const card = mount(CacheCard, { props: { node, now: noon + 3_000 } })
    expect(card.text()).toContain('stopped since 12:03:11 (3 s): it was stopped, and said goodbye')
    expect(card.get('[data-testid=cache-card]').classes()).not.toContain('down')
  })

  it('stays whole without figures, and over its limit', () => {
    const unknown = mount(CacheCard, { props: { node: cache('c1', { stats: null, rates: { gets: 0, hit_ratio: null } }), now: 0 } })
    expect(unknown.get('[role=progressbar]').attributes('aria-valuenow')).toBe('0')
    const full = mount(CacheCard, { props: { node: cache('c1', { stats: cacheStats({ bytes: 70, limit_bytes: 64 }) }), now: 0 } })
    expect(full.get('[role=progressbar]').attributes('aria-valuenow')).toBe('100')
  })
})
