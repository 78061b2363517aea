"""Drives tidegate_cache.Cache, AsyncCache or Django's cache through the contract: README.md in this folder.

driver.py sync|asyncio|django URL WAIT ANSWER [versions], in seconds; the helpers are found by PYTHONPATH.
"""
import asyncio, json, sys, threading
import redis, redis.asyncio
from redis.backoff import NoBackoff
import tidegate_cache

kind, url, wait, answer = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
versions = "versions" in sys.argv[5:]
print_lock = threading.Lock()


class Twice(redis.Redis):
    def execute_command(self, *words, **options):
        if words[0] == "SET":
            super().execute_command(*words, **options)
        return super().execute_command(*words, **options)


class AsyncTwice(redis.asyncio.Redis):
    async def execute_command(self, *words, **options):
        if words[0] == "SET":
            await super().execute_command(*words, **options)
        return await super().execute_command(*words, **options)


def say(**message):
    with print_lock:
        print(json.dumps(message), flush=True)


def loaded(answer):
    """What a load returns, or raises."""
    if "fails" in answer:
        raise ValueError(answer["fails"])
    return (answer["loaded"], answer["version"]) if versions else answer["loaded"]


def settings(retry):
    once = retry(NoBackoff(), 0)
    return {"socket_timeout": answer, "socket_connect_timeout": answer, "retry": once}


def sync(make):
    """Each reader is a thread. make(twice) gives its get, its changed, and its function of product:{0}."""
    answers = {}
    say(ready=True)

    def read(reader, message):
        def load(*_):
            say(reader=reader, loads=True)
            answers[reader][0].wait()
            return loaded(answers[reader][1])
        try:
            get, _, function = make(message.get("twice", False))
            say(reader=reader, got=get(message["get"], load) if "get" in message else function(load)(message["call"]))
        except Exception as error:
            say(reader=reader, failed=str(error))

    for message in map(json.loads, sys.stdin):
        if "changed" in message:
            make(False)[1](*message["changed"])
            say(changed=True)
            continue
        reader = message["reader"]
        if "get" in message or "call" in message:
            answers[reader] = [threading.Event(), None]
            threading.Thread(target=read, args=(reader, message), daemon=True).start()
        else:
            answers[reader][1] = message
            answers[reader][0].set()


async def asynchronous():
    """Each reader is a task."""
    options = {"wait": wait, "lease": 60, "versions": versions}
    # With replies as text, which the sync driver has as bytes.
    common = {"decode_responses": True, **settings(redis.asyncio.retry.Retry)}
    clients = [of.from_url(url, **common) for of in (redis.asyncio.Redis, AsyncTwice)]
    caches = [tidegate_cache.AsyncCache(client, **options) for client in clients]
    answers, tasks = {}, set()
    say(ready=True)

    async def read(reader, message):
        async def load(*_):
            say(reader=reader, loads=True)
            return loaded(await answers[reader])
        try:
            cache = caches[message.get("twice", False)]
            get = cache.get(message["get"], load) if "get" in message else cache.cached("product:{0}")(load)(message["call"])
            say(reader=reader, got=await get)
        except Exception as error:
            say(reader=reader, failed=str(error))

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        message = json.loads(line)
        if "changed" in message:
            await caches[0].changed(*message["changed"])
            say(changed=True)
            continue
        reader = message["reader"]
        if "get" in message or "call" in message:
            answers[reader] = loop.create_future()
            tasks.add(asyncio.create_task(read(reader, message)))
        else:
            answers[reader].set_result(message)


if kind == "asyncio":
    asyncio.run(asynchronous())
elif kind == "sync":
    clients = [of.from_url(url, **settings(redis.retry.Retry)) for of in (redis.Redis, Twice)]
    caches = [tidegate_cache.Cache(client, wait=wait, lease=60, versions=versions) for client in clients]
    sync(lambda twice: (caches[twice].get, caches[twice].changed, caches[twice].cached("product:{0}")))
elif kind == "django":
    import django.conf, django.core.cache
    of_django = {
        "BACKEND": "tidegate_django.LeaseRedisCache",
        "LOCATION": url,
        "OPTIONS": settings(redis.retry.Retry),
        "TIDEGATE": {"wait": wait, "lease": 60, "versions": versions},
        # The contract's keys, as they stand there.
        "KEY_FUNCTION": lambda key, prefix, version: key,
    }
    django.conf.settings.configure(CACHES={"default": of_django})

    def cache_of(twice):
        cache = django.core.cache.caches.create_connection("default")
        if twice:
            cache._cache._client = Twice
        # Django has no such function.
        function = lambda load: lambda argument: cache.get_or_set(f"product:{argument}", load)
        return cache.get_or_set, cache.changed, function

    sync(cache_of)
