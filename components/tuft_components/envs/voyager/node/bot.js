'use strict'
// The bot: joins, runs code, and says what happened and what there is.
const net = require('net')
const mineflayer = require('mineflayer')
const pathfinder = require('mineflayer-pathfinder')
const collect = require('mineflayer-collectblock')
const tool = require('mineflayer-tool')
const { Vec3 } = require('vec3')
const primitives = require('./primitives')

const RADIUS = 32
const VOXELS = { across: 8, up: 4 }
const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor
const MOST_EVENTS = 200
const LONGEST = 2000

class Bot {
  static async join (config) {
    const made = new Bot(config)
    await made.joined()
    return made
  }

  constructor (config) {
    this.config = config
    this.noted = []
    this.records = new Set()
    this.asked = new Map()
    this.gone = null // why, where the bot is not in the game any more
    this.bot = mineflayer.createBot({
      username: config.username,
      version: config.version,
      auth: 'offline',
      connect: client => client.setSocket(net.connect(config.socket)),
      checkTimeoutInterval: 3600 * 1000, // who waits for us keeps time
      hideErrors: true,
      logErrors: false,
      viewDistance: 'tiny',
      respawn: true
    })
  }

  async joined () {
    const { bot } = this
    await new Promise((resolve, reject) => {
      bot.once('spawn', resolve)
      for (const event of ['error', 'kicked', 'end']) bot.once(event, why => reject(new Error(`the bot could not join: ${why?.message ?? why}`)))
    })
    bot.loadPlugin(pathfinder.pathfinder)
    bot.loadPlugin(collect.plugin)
    bot.loadPlugin(tool.plugin)
    this.data = bot.registry
    const moves = new pathfinder.Movements(bot)
    moves.allow1by1towers = false
    moves.canDig = true
    moves.allowParkour = false
    bot.pathfinder.setMovements(moves)
    // In one piece: the pathfinder may stop for ever where it walks on a way that is not all found.
    // It counts game time, and our world is small.
    if (this.config.local) bot.pathfinder.tickTimeout = 20000
    bot.save = name => this.note('onSave', name)
    bot.on('error', error => this.note('onError', error))
    this.over = new Promise(resolve => bot.once('end', why => {
      this.gone = `the bot left the game: ${why}`
      resolve()
    }))
    bot.on('messagestr', text => this.note('onChat', text))
    if (this.config.local) this.useReferee()
    // Our own server has sent all of its small world by now. Others may send less than was asked
    // for, so that waiting for all of it could last for ever.
    while (bot.blockAt(bot.entity.position) === null) await bot.waitForTicks(1)
    this.pause(true)
  }

  // Our own server crafts by itself, and lets a block break at once.
  useReferee () {
    const { bot } = this
    bot._client.on('custom_payload', ({ channel, data }) => {
      if (channel !== 'tuft:answer') return
      const { id, error } = JSON.parse(data.toString())
      this.asked.get(id)?.(error)
      this.asked.delete(id)
    })
    bot.digTime = block => block.diggable ? 0 : Infinity
    bot.craft = (recipe, count) => this.ask('craft', this.data.items[recipe.result.id].name, count ?? 1)
    bot.smelt = (name, count) => this.ask('smelt', name, count)
  }

  async ask (wanted, name, count) {
    const id = Math.floor(Math.random() * 2 ** 40)
    const data = Buffer.from(JSON.stringify({ id, ask: wanted, name, count }))
    const error = await new Promise(resolve => {
      this.asked.set(id, resolve)
      this.bot._client.write('custom_payload', { channel: 'tuft:ask', data })
    })
    if (error) throw new Error(error)
  }

  async begin (options) {
    this.records.clear()
    if (this.config.local) {
      await this.ask() // whatever the server's reset sent is here by then
      await this.bot.waitForTicks(3) // it stands
    } else {
      await this.resetByCommands(options)
    }
    this.noted = []
  }

  // On a server that is not ours, as Voyager does it: the bot must be an operator there.
  async resetByCommands ({ inventory, position, waitTicks, keep }) {
    const { bot } = this
    if (keep) return
    bot.chat('/clear @s')
    if (position) bot.chat(`/tp @s ${position.x} ${position.y} ${position.z}`)
    for (const [name, count] of Object.entries(inventory ?? {})) bot.chat(`/give @s minecraft:${name} ${Number(count)}`)
    await bot.waitForTicks(waitTicks ?? 20)
  }

  pause (paused) {
    this.bot.physicsEnabled = !paused
  }

  async run (code, programs) {
    const names = { bot: this.bot, mcData: this.data, Vec3, ...pathfinder.goals, Movements: pathfinder.Movements, ...primitives }
    try {
      const body = new AsyncFunction(...Object.keys(names), `${programs}\n${code}`)
      await Promise.race([body(...Object.values(names)), this.over])
    } catch (error) {
      this.note('onError', error, programs.split('\n').length)
    } finally {
      this.bot.pathfinder.setGoal(null)
      this.bot.clearControlStates()
    }
    if (this.config.local && !this.gone) await Promise.race([this.ask(), this.over])
    if (this.gone) throw new Error(this.gone)
  }

  // `before`: lines of ours in front of the code that a line number is counted from.
  note (name, what, before = 0) {
    if (this.noted.length >= MOST_EVENTS) return
    const text = what instanceof Error ? described(what, before) : String(what)
    this.noted.push([name, { [name]: text.slice(0, LONGEST) }])
  }

  events () {
    const seen = this.observe()
    const events = this.noted.map(([name, values]) => [name, { ...seen, ...values }])
    this.noted = []
    return [...events, ['observe', seen]]
  }

  observe () {
    const { bot } = this
    const voxels = this.voxels()
    voxels.forEach(name => this.records.add(name))
    const items = {}
    for (const item of bot.inventory.items()) items[item.name] = (items[item.name] ?? 0) + item.count
    return {
      voxels,
      status: this.status(),
      inventory: items,
      nearbyChests: {},
      blockRecords: [...this.records].sort()
    }
  }

  voxels () {
    const { bot } = this
    const air = new Set(['air', 'cave_air', 'void_air'])
    const found = new Set()
    const feet = bot.entity.position.floored()
    for (let x = -VOXELS.across; x <= VOXELS.across; x++) {
      for (let z = -VOXELS.across; z <= VOXELS.across; z++) {
        for (let y = -VOXELS.up; y <= VOXELS.up; y++) {
          const block = bot.blockAt(feet.offset(x, y, z), false)
          if (block && !air.has(block.name)) found.add(block.name)
        }
      }
    }
    return [...found].sort()
  }

  status () {
    const { bot } = this
    const entities = {}
    for (const entity of Object.values(bot.entities)) {
      if (entity === bot.entity || !entity.position) continue
      const distance = entity.position.distanceTo(bot.entity.position)
      if (distance < RADIUS) entities[entity.name ?? 'unknown'] = Math.min(distance, entities[entity.name] ?? RADIUS)
    }
    const { position, velocity, yaw, pitch, onGround } = bot.entity
    const slots = [5, 6, 7, 8].map(slot => bot.inventory.slots[slot]?.name ?? null)
    return {
      health: bot.health ?? 20,
      food: bot.food ?? 20,
      saturation: bot.foodSaturation ?? 5,
      position,
      velocity,
      yaw,
      pitch,
      onGround,
      equipment: [...slots, bot.heldItem?.name ?? null, bot.inventory.slots[45]?.name ?? null],
      biome: bot.blockAt(position, false)?.biome?.name ?? 'unknown',
      entities,
      timeOfDay: 'day',
      inventoryUsed: bot.inventory.items().length,
      elapsedTime: 0
    }
  }

  leave () {
    this.bot.quit()
  }
}

// As Voyager says it: the line of the code, and what it said.
function described (error, before) {
  const line = /<anonymous>:(\d+):\d+/.exec(error.stack ?? '')
  const own = line === null ? 0 : Number(line[1]) - 2 - before
  return own > 0 ? `Your code:${own}\n${error.message}` : String(error.message)
}

module.exports = { Bot, RADIUS }
