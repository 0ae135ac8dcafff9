'use strict'
// Game time that runs faster than the clock. Bots wait a lot (ticks of 50 ms, breaking a block):
// training would wait with them. This replaces the timers and clocks of the process, so it must be
// loaded before what uses them. The factor may change at any time; between steps it is 1.
const { performance } = require('perf_hooks')

const real = {
  setTimeout: global.setTimeout,
  clearTimeout: global.clearTimeout,
  now: performance.now.bind(performance)
}
let factor = 1
let sinceReal = real.now()
let sinceGame = sinceReal
const dateOffset = Date.now() - sinceReal

function now () {
  return sinceGame + (real.now() - sinceReal) * factor
}

function setFactor (value) {
  sinceGame = now()
  sinceReal = real.now()
  factor = value
}

class Timer {
  constructor (callback, ms, args, again) {
    Object.assign(this, { callback, ms: Math.max(1, Number(ms) || 0), args, again })
    this.#wait()
  }

  #wait () {
    this.handle = real.setTimeout(() => {
      this.handle = null
      if (this.again) this.#wait()
      this.callback(...this.args)
    }, this.ms / factor)
  }

  stop () {
    this.again = false
    if (this.handle !== null) real.clearTimeout(this.handle)
    this.handle = null
  }

  ref () { return this }
  unref () { this.handle?.unref(); return this }
  hasRef () { return true }
  refresh () { if (this.handle !== null) { real.clearTimeout(this.handle); this.#wait() } return this }
}

function clear (timer) {
  if (timer instanceof Timer) timer.stop()
  else real.clearTimeout(timer)
}

global.setTimeout = (callback, ms, ...args) => new Timer(callback, ms, args, false)
global.setInterval = (callback, ms, ...args) => new Timer(callback, ms, args, true)
global.clearTimeout = clear
global.clearInterval = clear
performance.now = now
Date.now = () => Math.round(dateOffset + now())

module.exports = { setFactor, real }
