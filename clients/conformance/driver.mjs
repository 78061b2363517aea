// Drives tidegate-cache.mjs through the contract: README.md in this folder.
//
// driver.mjs node-redis|ioredis URL WAIT ANSWER HELPER [versions]: seconds, and the helper's file
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [kind, url, wait, answer, helper, versions] = process.argv.slice(2)
const { tidegateCache } = await import(pathToFileURL(helper))
// Only require looks at NODE_PATH.
const require = createRequire(import.meta.url)
// With ioredis the contract's keys have a part that the client puts in front.
const keyPrefix = kind === 'ioredis' ? 'product:' : ''
const own = key => key.slice(keyPrefix.length)
const say = message => process.stdout.write(JSON.stringify(message) + '\n')

async function connected() {
  if (kind === 'ioredis') {
    const Redis = require('ioredis')
    const client = new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, keyPrefix, enableReadyCheck: false })
    client.on('error', () => {})
    await new Promise(ready => client.once('ready', ready))
    return client
  }
  const client = require('redis').createClient({ url, disableOfflineQueue: true })
  client.on('error', () => {})
  return client.connect()
}

const client = await connected()
const send = client.call ? words => client.call(...words) : words => client.sendCommand(words)
const twice = {
  async call(...words) {
    if (words[0].toUpperCase() === 'SET') await send(words)
    return send(words)
  },
}
const options = { wait: wait * 1000, answer: answer * 1000, lease: 60_000, versions: versions === 'versions' }
const caches = { false: tidegateCache(client, options), true: tidegateCache(twice, options) }
const answers = {}
say({ ready: true })

function read({ reader, get, call, twice = false }) {
  const load = () => new Promise((loaded, fails) => {
    answers[reader] = { loaded, fails }
    say({ reader, loads: true })
  })
  const cache = caches[twice]
  const value = get ? cache.get(own(get), load) : cache.cached(argument => own(`product:${argument}`), load)(call)
  value.then(got => say({ reader, got }), error => say({ reader, failed: error.message }))
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line)
  if (message.changed) {
    await caches.false.changed(...message.changed.map(own))
    say({ changed: true })
  } else if (message.get || message.call) read(message)
  else if ('fails' in message) answers[message.reader].fails(new Error(message.fails))
  else answers[message.reader].loaded('version' in message ? [message.loaded, message.version] : message.loaded)
}
process.exit()
