import { mount } from '@vue/test-utils'
import { expect, test } from 'vitest'
import type { Kind } from './kind'
import ValueBody from './ValueBody.vue'

function show(text: string, kind: Kind, total = text.length) {
  return mount(ValueBody, { props: { bytes: new TextEncoder().encode(text), total, kind, src: '/api/key?key=k' } })
}

test('markup in a value is text', () => {
  const body = show('<img src=x onerror=alert(1)>', 'text')
  expect(body.find('pre').text()).toBe('<img src=x onerror=alert(1)>')
  expect(body.find('img').exists()).toBe(false)
})

test('JSON is laid out, unless it is none or not whole', () => {
  expect(show('{"a":1}', 'json').find('pre').text()).toBe('{\n  "a": 1\n}')
  const broken = show('{"a":', 'json')
  expect(broken.find('pre').text()).toBe('{"a":')
  expect(broken.text()).toContain('not valid JSON')
  expect(show('{"a":', 'json', 1 << 20).text()).toContain('only complete JSON is formatted')
})

test('says how much of a large value is there', () => {
  expect(show('x'.repeat(64 << 10), 'text', 41 << 20).text()).toContain('The first 64.0 KiB of 41.0 MiB.')
})

test('an image is read by the browser, unless it is too large or none', async () => {
  const image = show('', 'image', 5 << 20)
  expect(image.find('img').attributes('src')).toBe('/api/key?key=k')
  await image.find('img').trigger('error')
  expect(image.find('img').exists()).toBe(false)
  expect(image.text()).toContain('cannot show this as an image')
  expect(show('', 'image', 1 << 30).find('img').exists()).toBe(false)
})

test('an empty value is named, not shown as nothing', () => {
  expect(show('', 'text').text()).toContain('The value is empty.')
})
