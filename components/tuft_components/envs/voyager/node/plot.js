'use strict'
// A plot: the world of one bot, which `reset` puts back to a task's beginning, and what is known
// about the bot. What a bot may do is in rules.js.
const { Vec3 } = require('vec3')
const { applyRules } = require('./rules')

class Plot {
  constructor (serv) {
    this.serv = serv
    this.world = serv.overworld
    this.registry = serv.registry
    this.Item = require('prismarine-item')(serv.registry)
    this.Recipe = require('prismarine-recipe')(serv.registry).Recipe
    this.task = { blocks: [], inventory: {}, position: [0.5, 5, 0.5] }
    this.changed = new Map() // positions that differ from the bare ground, with what was there
    this.player = null
    this.forget()
    serv.getSpawnPoint = async () => new Vec3(...(this.kept?.position ?? this.task.position))
    // Emitted when all of flying-squid's own plugins have seen the player: ours is the last word.
    serv.on('newPlayer', player => this.join(player))
    // Another would begin with the task's items too.
    const clients = new Set()
    serv._server.on('connection', client => {
      clients.add(client)
      client.on('end', () => clients.delete(client))
      if (clients.size > 1) client.socket.destroy()
    })
  }

  forget () {
    this.placed = new Map() // names by position
    this.counts = { mined: {}, crafted: {} }
    this.kept = null // of a player who left in the middle of an episode, and may come again
  }

  count (what, name, number) {
    this.counts[what][name] = (this.counts[what][name] ?? 0) + number
  }

  join (player) {
    this.player = player
    player.foodSaturation = 5
    applyRules(player, this)
    player.on('spawned', () => this.give(this.kept?.inventory ?? this.task.inventory))
    player.on('disconnected', () => {
      this.kept = { inventory: this.inventory(), position: player.position.toArray() }
      if (this.player === player) this.player = null
    })
  }

  async set (position, state) {
    const key = position.toString()
    if (!this.changed.has(key)) {
      this.changed.set(key, [position, await this.world.getBlockStateId(position)])
    }
    await this.world.setBlockStateId(position, state)
    this.player?.sendBlock(position, state)
  }

  async reset (task) {
    const blocks = task.blocks.map(([x, y, z, name]) => [new Vec3(x, y, z), this.block(name)])
    for (const name of Object.keys(task.inventory)) this.item(name)
    for (const [position, state] of this.changed.values()) {
      await this.world.setBlockStateId(position, state)
      this.player?.sendBlock(position, state)
    }
    this.changed.clear()
    this.forget()
    this.task = task
    for (const [position, block] of blocks) await this.set(position, block.defaultState)
    if (this.player !== null) this.welcome(this.player)
  }

  welcome (player) {
    player.inventory.selectedItem = null
    player.inventory.slots.forEach((item, slot) => {
      if (item) player.inventory.updateSlot(slot, null)
    })
    player.heldItemSlot = 0
    player._client.write('held_item_slot', { slot: 0 })
    this.give(this.task.inventory)
    player.updateHealth(20)
    player.yaw = player.pitch = 0
    player.sendSelfPosition(new Vec3(...this.task.position))
  }

  block (name) {
    const found = this.registry.blocksByName[name]
    if (found === undefined) throw new Error(`there is no block ${name}`)
    return found
  }

  item (name) {
    const found = this.registry.itemsByName[name]
    if (found === undefined) throw new Error(`there is no item ${name}`)
    return found
  }

  inventory () {
    const counts = {}
    for (const item of this.player?.inventory.slots ?? []) {
      if (item) counts[item.name] = (counts[item.name] ?? 0) + item.count
    }
    return this.player === null ? this.kept?.inventory ?? {} : counts
  }

  give (items) {
    for (const [name, count] of Object.entries(items)) {
      for (let left = Number(count); left > 0;) left -= this.giveStack(this.item(name), left)
    }
  }

  giveStack (item, count) {
    const inventory = this.player.inventory
    const same = inventory.slots.find(each => each?.type === item.id && each.count < each.stackSize)
    if (same) {
      const fits = Math.min(count, same.stackSize - same.count)
      same.count += fits
      inventory.updateSlot(same.slot, same)
      return fits
    }
    const empty = [...hotbar(), ...pack()].find(slot => !inventory.slots[slot])
    if (empty === undefined) return count // it is lost, as what lies on the ground would be
    const fits = Math.min(count, item.stackSize)
    inventory.updateSlot(empty, new this.Item(item.id, fits))
    return fits
  }

  take (name, count) {
    const inventory = this.player.inventory
    for (const item of inventory.slots.filter(each => each?.name === name)) {
      const taken = Math.min(count, item.count)
      count -= taken
      item.count -= taken
      inventory.updateSlot(item.slot, item.count > 0 ? item : null)
      if (count === 0) return
    }
    throw new Error(`${count} ${name} are missing`)
  }

  look () {
    const placed = {}
    for (const name of this.placed.values()) placed[name] = (placed[name] ?? 0) + 1
    return {
      connected: this.player !== null,
      inventory: this.inventory(),
      placed,
      ...this.counts,
      position: this.player?.position.toArray() ?? this.kept?.position ?? this.task.position
    }
  }

  async close () {
    // Else `destroy` first forbids their connections to write, and then fails to say goodbye.
    this.serv.players.splice(0)
    await this.serv.destroy()
    this.serv.stopTickInterval()
  }
}

const range = (first, end) => Array.from({ length: end - first }, (_, index) => first + index)
const hotbar = () => range(36, 45)
const pack = () => range(9, 36)

module.exports = { Plot }
