import { mount } from '@vue/test-utils'
import { expect, test } from 'vitest'
import FeedTable from './FeedTable.vue'

const change = (revision: number, name: { key?: string; key_base64?: string }) => ({
  id: revision,
  change: { ...name, revision, size: 3, sha256: 'abcdef0123456789', content_type: 'text/plain', time: '2026-11-22T18:17:43.007Z' },
})

test('a row leads to its key, and a gap to a replay', async () => {
  const rows = [change(9, { key: 'app/x' }), { id: '2-8', after: 2, until: 8 }, change(2, { key_base64: '//4=' })]
  const table = mount(FeedTable, { props: { rows, prefix: false } })
  const drawn = table.findAll('[data-testid="changes-row"]')
  expect(drawn.map((r) => [r.attributes('data-revision'), r.attributes('data-key')])).toEqual([['9', 'app/x'], ['2', '\\xff\\xfe']])
  expect(drawn[0]!.find('a').attributes('href')).toBe('#/keys?key=app%2Fx')
  expect(drawn[0]!.text()).toContain('.007')
  const gap = table.find('[data-testid="changes-gap"]')
  expect(gap.text()).toContain('6 more')
  await gap.find('button').trigger('click')
  expect(table.emitted('replay')).toEqual([[2]])
})
