// A Minecraft server as somebody else would run it: flying-squid on TCP, and everybody an operator.
const squid = require('flying-squid')
const server = squid.createMCServer({
  host: '127.0.0.1', port: 0, version: '1.19', 'online-mode': false, 'max-players': 4, 'view-distance': 2,
  'everybody-op': true, 'player-list-text': { header: { text: '' }, footer: { text: '' } }, gameMode: 0, difficulty: 0,
  logging: false, noConsoleOutput: true, kickTimeout: 60000, generation: { name: 'superflat', options: { seed: 1 } }, plugins: {}
})
server.on('ready', () => console.log(`\nPORT ${server._server.socketServer.address().port}`))
