'use strict'
// Flat ground, the same in every chunk: bedrock, three of dirt, grass. Its top is at y = 4.
const { Vec3 } = require('vec3')

const LAYERS = ['bedrock', 'dirt', 'dirt', 'dirt', 'grass_block']

module.exports = ({ registry }) => {
  const Chunk = require('prismarine-chunk')(registry)
  const states = LAYERS.map(name => registry.blocksByName[name].defaultState)
  return () => {
    const chunk = new Chunk()
    const at = new Vec3(0, 0, 0)
    for (at.x = 0; at.x < 16; at.x++) {
      for (at.z = 0; at.z < 16; at.z++) {
        for (at.y = 0; at.y < states.length; at.y++) chunk.setBlockStateId(at, states[at.y])
      }
    }
    return chunk
  }
}
