import { flushPromises, mount } from '@vue/test-utils'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { ref, shallowRef } from 'vue'
import { createMemoryHistory } from 'vue-router'
import { noon, state } from './fixtures'
import type { State } from './types'

const cluster = vi.hoisted(() => ({ now: {} as Record<string, unknown> }))
vi.mock('./cluster', () => ({ useCluster: () => cluster.now }))
vi.mock('./views/Overview.vue', () => ({ default: { template: '<h1>Overview</h1>' } }))
vi.mock('./views/Keys.vue', () => ({ default: { template: '<h1>Keys</h1>' } }))
vi.mock('./views/Members.vue', () => {
  throw new Error('gone')
})
const { default: App } = await import('./App.vue')
const { createPageRouter } = await import('./router')

const connection = ref('open')
const now = ref(noon + 14_000)

async function setUp() {
  cluster.now = { state: shallowRef<State | null>(state()), connection, lostSince: ref(noon), now }
  const router = createPageRouter(createMemoryHistory())
  await router.push('/')
  const page = mount(App, { global: { plugins: [router] }, attachTo: document.body })
  await flushPromises()
  return { page, router }
}

beforeEach(() => {
  connection.value = 'open'
  localStorage.clear()
})
afterEach(() => {
  document.body.innerHTML = ''
})

it('names the view in the title and moves the focus to it', async () => {
  const { page, router } = await setUp()
  expect(document.title).toBe('Overview · oncekv')
  await page.get('[data-testid=nav-keys]').trigger('click')
  await vi.waitFor(() => expect(router.currentRoute.value.name).toBe('keys'))
  expect(document.title).toBe('Keys · oncekv')
  expect(document.activeElement?.id).toBe('main')
  expect(page.get('[data-testid=nav-keys]').attributes('aria-current')).toBe('page')
})

it('says since when the connection is lost, and reads it aloud once', async () => {
  const { page } = await setUp()
  expect(page.find('[data-testid=connection-lost]').exists()).toBe(false)
  connection.value = 'lost'
  await flushPromises()
  const banner = page.get('[data-testid=connection-lost]')
  expect(banner.text()).toContain('since 12:03:11 (14 s)')
  expect(banner.get('[aria-hidden=true]').text()).toBe('(14 s)')
  expect(page.text()).toContain('no connection')
})

it('switches the theme and remembers it', async () => {
  const { page } = await setUp()
  const toggle = page.get('[data-testid=theme-toggle]')
  await toggle.trigger('click')
  expect(document.documentElement.classList.contains('dark')).toBe(true)
  expect(localStorage.getItem('oncekv-theme')).toBe('dark')
  expect(toggle.attributes('aria-label')).toBe('Switch to the light theme')
})

it('says so when a view cannot be loaded', async () => {
  const { page, router } = await setUp()
  vi.spyOn(console, 'error').mockImplementation(() => {})
  await router.push('/members').catch(() => {})
  await flushPromises()
  expect(page.get('[role=alert]').text()).toContain('could not be loaded')
  await router.push('/keys')
  await flushPromises()
  expect(page.find('[role=alert]').exists()).toBe(false)
})
