import { ref } from 'vue'

export type Theme = 'light' | 'dark'

const stored = 'oncekv-theme'
const theme = ref<Theme>('light')

// startTheme follows the system until somebody has chosen.
export function startTheme() {
  const dark = window.matchMedia('(prefers-color-scheme: dark)')
  const follow = () => show(chosen() ?? (dark.matches ? 'dark' : 'light'))
  dark.addEventListener('change', follow)
  follow()
}

export function useTheme() {
  function toggle() {
    const next = theme.value === 'dark' ? 'light' : 'dark'
    try {
      localStorage.setItem(stored, next)
    } catch {
      // Storage may be forbidden; the choice then lasts as long as the page.
    }
    show(next)
  }
  return { theme, toggle }
}

function chosen(): Theme | null {
  try {
    const value = localStorage.getItem(stored)
    return value === 'light' || value === 'dark' ? value : null
  } catch {
    return null
  }
}

function show(next: Theme) {
  theme.value = next
  document.documentElement.classList.toggle('dark', next === 'dark')
}
