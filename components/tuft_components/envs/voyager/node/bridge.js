'use strict'
// One bot, and Voyager's four routes to it: POST /start, /step, /pause, /stop. /start and /step
// answer with the list of events as a JSON string, as Voyager's own bridge does: [[name, values],
// …] with onChat, onError, onSave, and observe as the last. HTTP comes in at a socket that it was started with,
// so that this process needs no network: it runs the code of a model.
const warp = require('./warp')
const http = require('http')
const { Bot } = require('./bot')

const LARGEST = 1 << 20
const config = JSON.parse(process.argv[2])
let bot = null
let paused = true

async function start (options) {
  if (bot === null || bot.gone || options.reset === 'hard') {
    await stop()
    bot = await Bot.join(config)
  }
  await running(() => bot.begin(options))
  return JSON.stringify(bot.events())
}

async function step ({ code, programs }) {
  if (bot === null) throw new Error('the bot has not joined: POST /start first')
  await running(() => bot.run(String(code ?? ''), String(programs ?? '')))
  return JSON.stringify(bot.events())
}

async function running (act) {
  warp.setFactor(config.speed)
  bot.pause(false)
  try {
    await act()
  } finally {
    bot.pause(paused)
    warp.setFactor(1)
  }
}

// Voyager pauses the game where it waits for a model; here that is so unless it says otherwise.
async function pause () {
  paused = !paused
  bot?.pause(paused)
  return { message: paused ? 'Paused' : 'Unpaused' }
}

async function stop () {
  bot?.leave()
  bot = null
  return { message: 'Bot stopped' }
}

const routes = { '/start': start, '/step': step, '/pause': pause, '/stop': stop }

async function body (request) {
  let text = ''
  for await (const part of request) {
    text += part
    if (text.length > LARGEST) throw new Error('the request is larger than 1 MiB')
  }
  return text === '' ? {} : JSON.parse(text)
}

const server = http.createServer(async (request, response) => {
  let status = 200
  let answer
  try {
    const route = request.method === 'POST' ? routes[request.url] : undefined
    if (route === undefined) status = 404
    answer = route === undefined ? { error: 'there are: POST /start, /step, /pause, /stop' } : await route(await body(request))
  } catch (error) {
    status = 500
    answer = { error: String(error?.message ?? error) }
  }
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(answer))
})
server.requestTimeout = 0
server.listen({ fd: config.fd })

// What code left behind may raise later: it is told with the next events, and ends nothing.
process.on('uncaughtException', error => bot?.note('onError', error))
process.on('unhandledRejection', error => bot?.note('onError', error))
