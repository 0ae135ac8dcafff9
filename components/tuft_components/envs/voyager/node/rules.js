'use strict'
// What a bot may do. flying-squid believes its clients: one may claim any item. A bot that runs a
// model's code would soon find out, so that what counts for rewards is settled here: digging,
// placing, moving items, crafting and smelting. What is dug goes straight into the inventory.
const { Vec3 } = require('vec3')

const REACH = 6
const SIDES = [[0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1], [-1, 0, 0], [1, 0, 0]].map(side => new Vec3(...side))
const SMELTED = { raw_iron: 'iron_ingot', raw_copper: 'copper_ingot', raw_gold: 'gold_ingot', iron_ore: 'iron_ingot', sand: 'glass', cobblestone: 'stone', oak_log: 'charcoal', birch_log: 'charcoal', spruce_log: 'charcoal' }
const BURNS = [['coal', 8], ['charcoal', 8], [/_log$/, 1.5], [/_planks$/, 1.5], ['stick', 0.5]]
const OWN = ['block_dig', 'block_place', 'window_click', 'set_creative_slot', 'use_entity', 'custom_payload']

function applyRules (player, plot) {
  const client = player._client
  for (const packet of OWN) client.removeAllListeners(packet)
  // One after another: a bot must not spend an item twice while the first packet is looked at.
  let last = Promise.resolve()
  const inOrder = handler => packet => {
    last = last.then(() => handler(player, plot, packet)).catch(error => console.error(error.message))
  }
  client.on('block_dig', inOrder(dig))
  client.on('block_place', inOrder(place))
  client.on('window_click', inOrder(click))
  client.on('custom_payload', inOrder(ask))
}

const near = (player, position) => player.position.offset(0, 1, 0).distanceTo(position.offset(0.5, 0.5, 0.5)) <= REACH
const held = player => player.inventory.slots[36 + player.heldItemSlot] ?? null

async function dig (player, plot, { status, location, sequence }) {
  if (status !== 2) return
  const position = new Vec3(location.x, location.y, location.z)
  const block = await plot.world.getBlock(position)
  const state = await plot.world.getBlockStateId(position)
  const allowed = state !== 0 && block.diggable && near(player, position) && block.boundingBox !== undefined
  if (!allowed) return player.sendBlock(position, state)
  await plot.set(position, 0)
  plot.placed.delete(position.toString())
  if (plot.serv.supportFeature('acknowledgePlayerDigging')) {
    player._client.write('acknowledge_player_digging', { sequenceId: sequence, location, block: 0, status: 2, successful: true })
  }
  const name = dropOf(plot, block, held(player))
  if (name === null) return
  plot.give({ [name]: 1 })
  plot.count('mined', block.name, 1)
}

// The first thing that falls always: no apples now and then, which would differ from run to run.
function dropOf (plot, block, tool) {
  const needed = plot.registry.blocksByName[block.name].harvestTools
  if (needed && !needed[tool?.type]) return null
  const drops = plot.registry.blockLoot[block.name]?.drops ?? []
  return block.name.endsWith('_leaves') ? null : drops.find(drop => !drop.silkTouch)?.item ?? null
}

async function place (player, plot, { location, direction }) {
  const item = held(player)
  const reference = new Vec3(location.x, location.y, location.z)
  const block = await plot.world.getBlock(reference)
  const at = block.boundingBox === 'empty' ? reference : reference.plus(SIDES[direction] ?? SIDES[1])
  const there = await plot.world.getBlock(at)
  const kind = plot.registry.blocksByName[item?.name]
  const free = there.boundingBox === 'empty' && !at.equals(player.position.floored())
  if (!kind || !free || !near(player, at)) return player.sendBlock(at, there.stateId)
  plot.take(item.name, 1)
  await plot.set(at, kind.defaultState)
  plot.placed.set(at.toString(), kind.name)
}

// Left clicks on the bot's own slots; never on those of the crafting grid.
function click (player, plot, { windowId, mode, mouseButton, slot }) {
  if (windowId !== 0 || mode !== 0 || mouseButton !== 0 || slot < 5 || slot > 45) return
  const item = player.inventory.slots[slot]
  player.inventory.acceptClick({ mode, mouseButton, slot, item })
}

// Requests of the bridge: {id, ask, …}; the answer has the same id. One that asks nothing is
// answered all the same: the bridge then knows that whatever it sent before was looked at.
async function ask (player, plot, { channel, data }) {
  if (channel !== 'tuft:ask') return
  const { id, ask: wanted, name, count } = JSON.parse(data.toString())
  let error = null
  try {
    if (wanted === 'craft') await craft(player, plot, name, Number(count) || 1)
    if (wanted === 'smelt') await smelt(player, plot, name, Number(count) || 1)
  } catch (raised) {
    error = raised.message
  }
  player._client.write('custom_payload', { channel: 'tuft:answer', data: Buffer.from(JSON.stringify({ id, error })) })
}

async function craft (player, plot, name, times) {
  const recipes = plot.Recipe.find(plot.item(name).id, null)
  if (recipes.length === 0) throw new Error(`${name} can't be crafted`)
  for (let done = 0; done < times; done++) {
    const missing = recipes.map(recipe => lacking(plot, recipe))
    const possible = recipes.filter((_, index) => missing[index].length === 0)
    if (possible.length === 0) {
      const least = missing.reduce((best, each) => sum(each) < sum(best) ? each : best)
      throw new Error(`to craft ${name} you need ${least.map(([item, count]) => `${count} more ${item}`).join(' and ')}`)
    }
    const recipe = possible.find(each => !each.requiresTable) ?? possible[0]
    if (recipe.requiresTable && !await stands(player, plot, 'crafting_table')) {
      throw new Error(`to craft ${name} you need a crafting_table near you: place one`)
    }
    for (const { id, count } of recipe.delta.filter(each => each.count < 0)) plot.take(plot.registry.items[id].name, -count)
    for (const { id, count } of recipe.delta.filter(each => each.count > 0)) plot.give({ [plot.registry.items[id].name]: count })
    plot.count('crafted', name, 1)
  }
}

const sum = pairs => pairs.reduce((total, [, count]) => total + count, 0)

function lacking (plot, recipe) {
  const has = plot.inventory()
  return recipe.delta
    .filter(each => each.count < 0)
    .map(each => [plot.registry.items[each.id].name, -each.count])
    .map(([name, count]) => [name, count - (has[name] ?? 0)])
    .filter(([, count]) => count > 0)
}

// At once: a furnace would take ten seconds for each. A piece of fuel is used up for what it begins.
async function smelt (player, plot, name, count) {
  const into = SMELTED[name]
  if (into === undefined) throw new Error(`${name} can't be smelted`)
  if (!await stands(player, plot, 'furnace')) throw new Error(`to smelt ${name} you need a furnace near you: place one`)
  const has = plot.inventory()
  if ((has[name] ?? 0) < count) throw new Error(`to smelt you need ${count - (has[name] ?? 0)} more ${name}`)
  let burning = 0
  for (let done = 0; done < count; done++) {
    if (burning < 1) burning += burn(plot, name)
    burning -= 1
    plot.take(name, 1)
    plot.give({ [into]: 1 })
    plot.count('crafted', into, 1)
  }
}

function burn (plot, smelted) {
  const has = plot.inventory()
  for (const [pattern, lasts] of BURNS) {
    const fuel = Object.keys(has).find(name => name !== smelted && (name === pattern || (pattern.test && pattern.test(name))))
    if (fuel === undefined) continue
    const pieces = Math.ceil(1 / lasts)
    if (has[fuel] < pieces) continue
    plot.take(fuel, pieces)
    return lasts * pieces
  }
  throw new Error('to smelt you need fuel: coal, charcoal, logs or planks')
}

async function stands (player, plot, name) {
  const wanted = plot.block(name).id
  const feet = player.position.floored()
  for (let x = -4; x <= 4; x++) {
    for (let y = -2; y <= 3; y++) {
      for (let z = -4; z <= 4; z++) {
        if (await plot.world.getBlockType(feet.offset(x, y, z)) === wanted) return true
      }
    }
  }
  return false
}

module.exports = { applyRules }
