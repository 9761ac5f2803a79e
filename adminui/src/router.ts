import { createRouter, createWebHashHistory, type RouteRecordRaw, type RouterHistory } from 'vue-router'

declare module 'vue-router' {
  interface RouteMeta {
    title?: string
  }
}

export const routes: RouteRecordRaw[] = [
  { path: '/', name: 'overview', component: () => import('./views/Overview.vue'), meta: { title: 'Overview' } },
  { path: '/keys', name: 'keys', component: () => import('./views/Keys.vue'), meta: { title: 'Keys' } },
  { path: '/history', name: 'history', component: () => import('./views/History.vue'), meta: { title: 'History' } },
  { path: '/members', name: 'members', component: () => import('./views/Members.vue'), meta: { title: 'Members' } },
  { path: '/:rest(.*)*', redirect: '/' },
]

// The server knows one path only, so the view is named behind the '#'.
export function createPageRouter(history: RouterHistory = createWebHashHistory()) {
  const router = createRouter({ history, routes })
  router.afterEach((to, from) => {
    document.title = `${to.meta.title} · oncekv`
    if (from.name && to.name !== from.name) {
      // A new page would begin at its top, for eyes and for screen readers.
      document.getElementById('main')?.focus({ preventScroll: true })
      window.scrollTo(0, 0)
    }
  })
  return router
}
