// Figures for people. All of them are safe on missing values.

const nothing = '–'
const whole = new Intl.NumberFormat('en')
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 2 })

export function count(value: number | null | undefined): string {
  return known(value) ? whole.format(value) : nothing
}

// short is a count in few characters: 999, 12.3k, 4.56M.
export function short(value: number | null | undefined): string {
  return known(value) ? scaled(value, 1000, ['', 'k', 'M', 'G', 'T', 'P']) : nothing
}

export function bytes(value: number | null | undefined): string {
  return known(value) ? scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB', ' TiB', ' PiB']) : nothing
}

// bytesOf is a part and its whole, with one unit where one will do: 16.0 of 64.0 MiB.
export function bytesOf(part: number | null | undefined, whole: number | null | undefined): string {
  const [value, unit] = bytes(part).split(' ')
  const all = bytes(whole)
  return unit !== undefined && all.endsWith(' ' + unit) ? `${value} of ${all}` : `${bytes(part)} of ${all}`
}

export function rate(value: number | null | undefined): string {
  if (!known(value)) {
    return nothing
  }
  if (value > 0 && value < 10) {
    return value < 0.05 ? '< 0.1' : value.toFixed(1)
  }
  return value < 10_000 ? count(Math.round(value)) : short(Math.round(value))
}

// tick is a round number on an axis.
export function tick(value: number): string {
  return compact.format(value).replace('K', 'k')
}

export function percent(ratio: number | null | undefined): string {
  if (!known(ratio)) {
    return nothing
  }
  const value = ratio * 100
  const digits = value > 0 && value < 10 ? 1 : 0
  // 99.96 % is not everything, and 0.04 % is not nothing.
  const text = value > 99 && value < 100 ? (Math.floor(value * 10) / 10).toFixed(1) : value.toFixed(digits)
  return `${text} %`
}

// duration names the two largest units: 14 s, 3 min 20 s, 2 h 5 min, 12 d 3 h.
export function duration(seconds: number | null | undefined): string {
  if (!known(seconds)) {
    return nothing
  }
  const total = Math.max(0, Math.floor(seconds))
  const units: [number, string][] = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']]
  const first = units.findIndex(([size]) => total >= size)
  if (first < 0) {
    return '0 s'
  }
  const [size, name] = units[first]!
  const next = units[first + 1]
  const rest = next ? Math.floor((total % size) / next[0]) : 0
  return `${Math.floor(total / size)} ${name}` + (rest > 0 ? ` ${rest} ${next![1]}` : '')
}

// clock is the time of day where the reader is, with the date when that is another day.
export function clock(time: string | number, now: number = Date.now()): string {
  const date = new Date(time)
  if (Number.isNaN(date.getTime())) {
    return nothing
  }
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} `
  const ofDay = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  return new Date(now).toDateString() === date.toDateString() ? ofDay : day + ofDay
}

// since is "since 12:03:11 (14 s)".
export function since(time: string | number, now: number): string {
  const start = new Date(time).getTime()
  return Number.isNaN(start) ? '' : `since ${clock(start, now)} (${duration((now - start) / 1000)})`
}

// host is an address without what all of them begin with.
export function host(url: string): string {
  return url.replace(/^http:\/\//, '')
}

function known(value: number | null | undefined): value is number {
  return typeof value === 'number' && Number.isFinite(value)
}

function scaled(value: number, step: number, units: string[]): string {
  let unit = 0
  // 999.6 of one unit would be shown as 1000: it is 1.00 of the next.
  while (unit < units.length - 1 && Math.abs(value) >= step - 0.5) {
    value /= step
    unit++
  }
  const digits = unit === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2
  const text = unit === 0 && !Number.isInteger(value) ? value.toFixed(1) : value.toFixed(digits)
  return text + units[unit]
}

function two(value: number): string {
  return String(value).padStart(2, '0')
}
