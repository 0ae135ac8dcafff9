'use strict'
// One process, many small Minecraft servers: each plot is a flying-squid server with a world of its
// own, for one bot. It is told what to do over a socket that it was started with, one JSON a line, and
// is also the referee: what a bot has and has placed is read here, where its code can't reach.
const net = require('net')

// flying-squid begins an interval of 5 s for every player that joins, and never clears it: it tells
// the latencies of other players, of which there are none here.
const setInterval = global.setInterval
global.setInterval = (callback, ms, ...args) => ms === 5000 ? null : setInterval(callback, ms, ...args)

const squid = require('flying-squid')
const { Plot } = require('./plot')

// A packet that flying-squid trips over must not end the other plots.
process.on('uncaughtException', error => console.error(error))
process.on('unhandledRejection', error => console.error(error))

const { version, fd } = JSON.parse(process.argv[2])
const plots = new Map()

async function open ({ plot, socket }) {
  const server = squid.createMCServer({
    socketType: 'ipc',
    host: socket,
    version,
    'online-mode': false,
    'max-players': 1,
    'view-distance': 1,
    'everybody-op': false,
    'player-list-text': { header: { text: '' }, footer: { text: '' } },
    gameMode: 0,
    difficulty: 0,
    kickTimeout: 60000,
    keepAlive: false,
    logging: false,
    noConsoleOutput: true,
    generation: { name: require.resolve('./ground'), options: { seed: 1 } },
    plugins: {}
  })
  server.debug = () => {} // else flying-squid ends the process where anything is raised
  await server.waitForReady(20000)
  plots.set(plot, new Plot(server))
}

const commands = {
  open,
  reset: ({ plot, ...task }) => known(plot).reset(task),
  look: ({ plot }) => known(plot).look(),
  close: async ({ plot }) => {
    const made = known(plot)
    plots.delete(plot)
    await made.close()
  }
}

function known (plot) {
  const found = plots.get(plot)
  if (found === undefined) throw new Error(`there is no plot ${plot}`)
  return found
}

const control = new net.Socket({ fd })
control.on('close', () => process.exit())
let rest = ''
control.on('data', async data => {
  const lines = (rest + data).split('\n')
  rest = lines.pop()
  for (const line of lines) {
    const { id, command, ...args } = JSON.parse(line)
    let answer
    try {
      answer = { id, result: await commands[command](args) ?? null }
    } catch (error) {
      answer = { id, error: error.message }
    }
    control.write(JSON.stringify(answer) + '\n')
  }
})
control.write('{"ready": true}\n')
