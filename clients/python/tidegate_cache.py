"""Cache-aside under a lease, for a cache that a tidegate [invalidate] route clears. Copy this file; it needs redis-py.

    cache = Cache(redis.Redis(...))                     @cache.cached("product:{0}")
    product = cache.get("product:42", load)             def product(sku): ...

AsyncCache does the same with redis.asyncio and coroutines. clients/README.md says how to set up the client.
Licence: MIT or Apache-2.0, as tidegate.
"""
import asyncio, functools, hashlib, json, secrets, time
from redis.exceptions import NoScriptError, RedisError, ResponseError

# Stores a value and gives the lease back, while the lease is one's own. Without a value it only gives the lease back.
FILL = """if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1"""
# The same for a route with `set`: the key is a hash of value and version, and an older version is not stored over a newer one.
FILL_VERSIONED = """if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if not ARGV[2] then return 1 end
local there = redis.pcall('HGET', KEYS[1], 'version')
local old = type(there) == 'string' and string.match(there, '^0*(%d+)$')
local new = string.match(ARGV[4], '^0*(%d+)$')
if not new or old and (#old > #new or #old == #new and old >= new) then return 0 end
redis.call('UNLINK', KEYS[1])
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'version', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1"""


class Cache:
    """ttl: a value's life. lease: how long a load may take; a slower one is not stored. wait: how long to wait for the
    load of another. All in seconds. suffix: what makes the lease's name of the key's, as `lease` of the route does.
    versions: the route has `set`; a load then returns a pair, value and version, of which the reader gets the value."""

    sleep = staticmethod(time.sleep)

    def __init__(self, client, *, ttl=600, lease=10, wait=0.1, suffix=":tidegate", dumps=json.dumps, loads=json.loads,
                 versions=False):
        self.client, self.ttl, self.lease, self.wait, self.suffix = client, ttl, lease, wait, suffix
        self.dumps, self.loads, self.versions = dumps, loads, versions
        self.script = FILL_VERSIONED if versions else FILL
        self.sha = hashlib.sha1(self.script.encode()).hexdigest()

    def get(self, key, load, ttl=None):
        """The value of the key, or what load() returns. Errors of the cache count as a miss; those of load() are raised."""
        steps = self._steps(key, load, ttl or self.ttl)
        try:
            step = next(steps)
            while True:
                try:
                    result = step()
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value

    def cached(self, key, ttl=None):
        """Decorates a function whose arguments make the key: @cache.cached("product:{0}")"""
        def decorate(load):
            return functools.wraps(load)(lambda *a, **k: self.get(key.format(*a, **k), lambda: load(*a, **k), ttl))
        return decorate

    def changed(self, *keys):
        """For a writer that wants to see its own change at once, after its commit. The event is needed all the same."""
        return self.client.unlink(*(name for key in keys for name in (key, key + self.suffix)))

    def _steps(self, key, load, ttl):
        """Yields calls, for the one that makes or awaits them; each is answered by its result or its exception."""
        lease, token, mine = key + self.suffix, secrets.token_hex(16), False
        try:
            pause, until = 0.005, time.monotonic() + self.wait
            while True:
                try:
                    found = yield lambda: self.client.hget(key, "value") if self.versions else self.client.get(key)
                except ResponseError as error:
                    if not str(error).startswith("WRONGTYPE"):
                        raise
                    found = None  # from before `versions` were switched on or off
                if found is not None:
                    try:
                        return self.loads(found)
                    except Exception:  # of another form. A script with versions would not store the same version over it
                        yield lambda: self.client.unlink(key)
                mine = yield lambda: self.client.set(lease, token, nx=True, px=int(self.lease * 1000))
                if not mine:  # unless the client library has sent the SET twice
                    mine = (yield lambda: self.client.get(lease)) in (token, token.encode())
                if mine or time.monotonic() >= until:
                    break
                yield lambda: self.sleep(pause)
                pause = min(2 * pause, 0.04)
        except RedisError:
            mine = False  # no answer from the cache: the database, and nothing is stored
        try:
            value, *version = (yield load) if self.versions else ((yield load),)
        except Exception:
            if mine:
                yield from self._fill(key, lease, token)
            raise
        if mine:
            yield from self._fill(key, lease, token, self.dumps(value), int(ttl * 1000), *map(str, version))
        return value

    def _fill(self, *keys_and_arguments):
        try:
            try:
                yield lambda: self.client.evalsha(self.sha, 2, *keys_and_arguments)
            except NoScriptError:
                yield lambda: self.client.eval(self.script, 2, *keys_and_arguments)
        except RedisError:
            pass  # the value is right all the same; the lease ends by itself


class AsyncCache(Cache):
    """The same for redis.asyncio; load is a coroutine function."""

    sleep = staticmethod(asyncio.sleep)

    async def get(self, key, load, ttl=None):
        steps = self._steps(key, load, ttl or self.ttl)
        try:
            step = next(steps)
            while True:
                try:
                    result = await step()
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value

    def cached(self, key, ttl=None):
        def decorate(load):
            @functools.wraps(load)
            async def wrapped(*a, **k):
                return await self.get(key.format(*a, **k), lambda: load(*a, **k), ttl)
            return wrapped
        return decorate
