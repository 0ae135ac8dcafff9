// A Minecraft server as somebody else would run it: flying-squid on TCP, and everybody an operator.
// It lacks /clear, which a real one has.
const squid = require('flying-squid')
const server = squid.createMCServer({
  host: '127.0.0.1', port: 0, version: '1.19', 'online-mode': false, 'max-players': 4, 'view-distance': 2,
  'everybody-op': true, 'player-list-text': { header: { text: '' }, footer: { text: '' } }, gameMode: 0, difficulty: 0,
  logging: false, noConsoleOutput: true, kickTimeout: 60000, generation: { name: 'superflat', options: { seed: 1 } }, plugins: {}
})
server.on('ready', () => {
  server.commands.add({
    base: 'clear',
    info: 'Takes all that a player has',
    usage: '/clear @s',
    op: true,
    parse: () => true,
    action: (_, { player }) => player.inventory.slots.forEach((item, slot) => {
      if (item) player.inventory.updateSlot(slot, null)
    })
  })
  console.log(`\nPORT ${server._server.socketServer.address().port}`)
})
