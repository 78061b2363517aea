// Cache-aside under a lease, for a cache that a tidegate [invalidate] route clears. Copy this file; it needs node-redis
// or ioredis. clients/README.md says how to set up the client. Licence: MIT or Apache-2.0, as tidegate.
//
//   const cache = tidegateCache(client)
//   const product = await cache.get('product:42', () => load(42))
//   const productOf = cache.cached(sku => `product:${sku}`, sku => load(sku))
import { createHash, randomBytes } from 'node:crypto'

// Stores a value and gives the lease back, while the lease is one's own. Without a value it only gives the lease back.
const FILL = `if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1`
// The same for a route with `set`: the key is a hash of value and version, and an older version is not stored over a newer one.
const FILL_VERSIONED = `if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if not ARGV[2] then return 1 end
local there = redis.pcall('HGET', KEYS[1], 'version')
local old = type(there) == 'string' and string.match(there, '^0*(%d+)$')
local new = string.match(ARGV[4], '^0*(%d+)$')
if not new or old and (#old > #new or #old == #new and old >= new) then return 0 end
redis.call('UNLINK', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'version', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`
const sleep = ms => new Promise(done => setTimeout(done, ms))

/**
 * ttl: a value's life. lease: how long a load may take; a slower one is not stored. wait: how long to wait for the load of
 * another. answer: how long to wait for the cache. All in ms. suffix: what makes the lease's name of the key's, as `lease`
 * of the route does. versions: the route has `set`; a load then resolves to [value, version], of which the reader gets the
 * value. A version is a BigInt, a text, or a number below 2 ** 53.
 */
export function tidegateCache(client, options = {}) {
  const { ttl = 600_000, lease = 10_000, wait = 100, answer = 250, suffix = ':tidegate', versions = false } = options
  const script = versions ? FILL_VERSIONED : FILL
  const sha = createHash('sha1').update(script).digest('hex')
  // ioredis puts its keyPrefix only before keys of commands in small letters; node-redis has no prefix.
  const send = client.call
    ? ([name, ...words]) => client.call(name.toLowerCase(), ...words)
    : words => client.sendCommand(words)
  async function ask(...words) {
    const reply = send(words)
    let timer
    const late = new Promise((_, fail) => { timer = setTimeout(fail, answer, new Error('no answer from the cache')) })
    return Promise.race([reply, late]).finally(() => clearTimeout(timer))
  }

  // A key of another type is from before `versions` was switched on or off: a miss.
  const otherType = error => {
    if (!String(error?.message).startsWith('WRONGTYPE')) throw error
    return null
  }

  async function fill(...keysAndArguments) {
    try {
      await ask('EVALSHA', sha, '2', ...keysAndArguments)
    } catch (error) {
      if (!String(error?.message).startsWith('NOSCRIPT')) return // the value is right all the same; the lease ends by itself
      await ask('EVAL', script, '2', ...keysAndArguments).catch(() => {})
    }
  }

  /** The value of the key, or what load() resolves to. Errors of the cache count as a miss; those of load() are thrown. */
  async function get(key, load, { ttl: life = ttl } = {}) {
    const [held, token] = [key + suffix, randomBytes(16).toString('hex')]
    let mine = false
    try {
      for (let pause = 5, until = Date.now() + wait; ; pause = Math.min(2 * pause, 40)) {
        const found = await (versions ? ask('HGET', key, 'value') : ask('GET', key)).catch(otherType)
        if (found !== null) {
          try {
            return JSON.parse(found)
          } catch { // of another form. A script with versions would not store the same version over it
            await ask('UNLINK', key)
          }
        }
        mine = await ask('SET', held, token, 'NX', 'PX', String(lease)) === 'OK'
        mine ||= await ask('GET', held) === token // the client library has sent the SET twice
        if (mine || Date.now() >= until) break
        await sleep(pause)
      }
    } catch {
      mine = false // no answer from the cache: the database, and nothing is stored
    }
    let value, version
    try {
      [value, ...version] = versions ? await load() : [await load()]
    } catch (error) {
      if (mine) await fill(key, held, token)
      throw error
    }
    if (mine) await fill(key, held, token, JSON.stringify(value ?? null), String(life), ...version.map(String))
    return value
  }

  return {
    get,
    /** A function whose arguments make the key. */
    cached: (keyOf, load, options) => (...args) => get(keyOf(...args), () => load(...args), options),
    /** For a writer that wants to see its own change at once, after its commit. The event is needed all the same. */
    changed: (...keys) => ask('UNLINK', ...keys.flatMap(key => [key, key + suffix])),
  }
}
