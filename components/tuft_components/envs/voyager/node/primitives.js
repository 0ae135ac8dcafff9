'use strict'
// What skill code may call, by the names and arguments of Voyager's control primitives. Each raises
// an error that says what is missing, where Voyager's would count failures and go on.
const { Vec3 } = require('vec3')
const { goals: { GoalGetToBlock, GoalNear, GoalPlaceBlock } } = require('mineflayer-pathfinder')

const SEARCH = { across: 32, height: 16 }
const OWN_SEARCH = { across: 16, height: 8 } // all of our own server's world
const REACH = 4.5
const SIDES = [[0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1], [0, -1, 0]].map(side => new Vec3(...side))

async function mineBlock (bot, name, count = 1) {
  const block = bot.registry.blocksByName[name]
  if (!block) throw new Error(`there is no block ${name}`)
  for (let mined = 0; mined < count; mined++) {
    const found = nearest(bot, block.id)
    if (found === null) throw new Error(`no ${name} nearby: explore first`)
    await reach(bot, found.position)
    await bot.tool.equipForBlock(found, {})
    const { harvestTools } = block
    if (harvestTools && !harvestTools[bot.heldItem?.type]) throw new Error(`to mine ${name} you need a better tool: ${toolNames(bot, harvestTools)}`)
    await bot.dig(bot.blockAt(found.position), 'ignore')
    if (!bot.smelt) await pickUp(bot, found.position)
  }
  bot.save(`${name}_mined`)
}

const toolNames = (bot, tools) => Object.keys(tools).map(id => bot.registry.items[id].name).join(' or ')

// The nearest; of equally near ones always the same. mineflayer's own search takes half a second
// where there is none.
function nearest (bot, id) {
  const here = bot.entity.position
  const { minStateId, maxStateId } = bot.registry.blocks[id]
  const { across, height } = bot.smelt ? OWN_SEARCH : SEARCH
  const first = here.floored().offset(-across, -height, -across)
  const last = here.floored().offset(across, height, across)
  const at = new Vec3(0, 0, 0)
  let [place, least] = [null, Infinity]
  for (at.x = first.x; at.x <= last.x; at.x++) {
    for (at.z = first.z; at.z <= last.z; at.z++) {
      for (at.y = last.y; at.y >= first.y; at.y--) {
        const state = bot.world.getBlockStateId(at)
        if (state < minStateId || state > maxStateId) continue
        const distance = at.distanceTo(here)
        if (distance < least) [place, least] = [at.clone(), distance]
      }
    }
  }
  return place === null ? null : bot.blockAt(place)
}

async function reach (bot, position) {
  const eyes = bot.entity.position.offset(0, 1.6, 0)
  if (eyes.distanceTo(position.offset(0.5, 0.5, 0.5)) <= REACH) return
  await walk(bot, new GoalNear(position.x, position.y, position.z, 3))
}

// The pathfinder may stand still for ever: then it is asked again.
async function walk (bot, goal) {
  for (let tries = 0; tries < 3; tries++) {
    const going = bot.pathfinder.goto(goal).then(() => true)
    going.catch(() => {})
    if (await Promise.race([going, stands(bot)])) return
    bot.pathfinder.setGoal(null)
  }
  throw new Error('no way there was found')
}

// Ends, with false, where the bot did not move for three seconds.
async function stands (bot) {
  for (let still = 0, last = null; still < 6; still++) {
    if (last !== null && bot.entity.position.distanceTo(last) > 0.1) still = 0
    last = bot.entity.position.clone()
    await bot.waitForTicks(10)
  }
  return false
}

// Where what is mined falls to the ground.
async function pickUp (bot, position) {
  await bot.waitForTicks(5)
  const item = bot.nearestEntity(entity => entity.name === 'item' && entity.position.distanceTo(position) < 5)
  if (item) await bot.collectBlock.collect(item, { ignoreNoPath: true })
}

async function craftItem (bot, name, count = 1) {
  const item = bot.registry.itemsByName[name]
  if (!item) throw new Error(`there is no item ${name}`)
  const wantsTable = bot.recipesAll(item.id, null, false).length === 0
  const table = wantsTable ? nearest(bot, bot.registry.blocksByName.crafting_table.id) : null
  if (table) await reach(bot, table.position)
  if (bot.smelt) return bot.craft({ result: { id: item.id } }, count) // our server says what is missing
  const recipe = bot.recipesFor(item.id, null, 1, table)[0]
  if (!recipe) throw new Error(`to craft ${name} you need other items, or a crafting table nearby`)
  await bot.craft(recipe, count, table ?? undefined)
}

async function placeItem (bot, name, position = null) {
  const item = bot.inventory.items().find(each => each.name === name)
  if (!item) throw new Error(`you have no ${name} to place`)
  const at = position ? new Vec3(position.x, position.y, position.z).floored() : freePlace(bot)
  if (bot.entity.position.offset(0, 1.6, 0).distanceTo(at.offset(0.5, 0.5, 0.5)) > REACH || at.equals(bot.entity.position.floored())) {
    await walk(bot, new GoalPlaceBlock(at, bot.world, {}))
  }
  const side = SIDES.find(each => bot.blockAt(at.minus(each))?.boundingBox === 'block')
  if (!side) throw new Error(`no block at ${at} to place ${name} against`)
  await bot.equip(item, 'hand')
  await bot.placeBlock(bot.blockAt(at.minus(side)), side)
  bot.save(`${name}_placed`)
}

function freePlace (bot) {
  const feet = bot.entity.position.floored()
  for (const distance of [1, 2, 3]) {
    for (let x = -distance; x <= distance; x++) {
      for (let z = -distance; z <= distance; z++) {
        const at = feet.offset(x, 0, z)
        if (Math.max(Math.abs(x), Math.abs(z)) !== distance) continue
        if (bot.blockAt(at)?.name === 'air' && bot.blockAt(at.offset(0, -1, 0))?.boundingBox === 'block') return at
      }
    }
  }
  throw new Error('no free place near you')
}

async function smeltItem (bot, itemName, fuelName, count = 1) {
  if (!bot.registry.itemsByName[itemName]) throw new Error(`there is no item ${itemName}`)
  const furnace = nearest(bot, bot.registry.blocksByName.furnace.id)
  if (furnace) await reach(bot, furnace.position)
  if (bot.smelt) return bot.smelt(itemName, count)
  if (!furnace) throw new Error(`to smelt ${itemName} you need a furnace nearby`)
  await walk(bot, new GoalGetToBlock(furnace.position.x, furnace.position.y, furnace.position.z))
  const opened = await bot.openFurnace(furnace)
  await opened.putFuel(bot.registry.itemsByName[fuelName].id, null, count)
  await opened.putInput(bot.registry.itemsByName[itemName].id, null, count)
  await bot.waitForTicks(200 * count + 20)
  await opened.takeOutput()
  opened.close()
}

async function exploreUntil (bot, direction, maxTime = 60, callback = () => false) {
  for (let seconds = 0; seconds < maxTime; seconds++) {
    const found = callback()
    if (found) return found
    const { x, y, z } = bot.entity.position.plus(direction.scaled(8))
    await walk(bot, new GoalNear(x, y, z, 2)).catch(() => {})
    await bot.waitForTicks(20)
  }
  return null
}

module.exports = { mineBlock, craftItem, placeItem, smeltItem, exploreUntil }
