import { defineConfig } from 'vitest/config'
import vue from '@vitejs/plugin-vue'

// The paths that the admin serves itself, beside the page.
const admin = 'http://127.0.0.1:5546'
const served = ['/api', '/events', '/owner', '/dbs', '/caches']

export default defineConfig({
  plugins: [vue()],
  build: {
    // The Content-Security-Policy allows fonts and styles from files only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: Object.fromEntries(served.map((path) => [path, admin])),
  },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.ts'],
    restoreMocks: true,
    server: { deps: { inline: ['element-plus'] } }, // it imports CSS, which Node cannot load
  },
})
