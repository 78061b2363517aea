"""Django's Redis cache, with a get_or_set that loads under a lease. Copy this file and tidegate_cache.py.

    CACHES = {"default": {"BACKEND": "tidegate_django.LeaseRedisCache", "LOCATION": "redis://cache:6379"}}

"TIDEGATE": {"lease": 10, "wait": 0.1} beside these are arguments of tidegate_cache.Cache. The route needs the keys as
Django writes them, PREFIX:VERSION:KEY: keys = [":1:product:<pointer:/sku>"]. aget_or_set is Django's own, without a lease.
"versions": True there is for a route with `set`: default() then returns (value, version), and keys are hashes of JSON and
version. Only get_or_set, changed and delete know these; give them an alias of their own in CACHES.
Licence: MIT or Apache-2.0, as tidegate.
"""
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache
from tidegate_cache import Cache

YEAR = 365 * 24 * 3600


class LeaseRedisCache(RedisCache):
    def __init__(self, server, params):
        super().__init__(server, params)
        self._arguments = params.get("TIDEGATE", {})

    def get_or_set(self, key, default, timeout=DEFAULT_TIMEOUT, version=None):
        load = default if callable(default) else lambda: default
        ttl = self.get_backend_timeout(timeout)
        if ttl == 0:  # Django's word for "do not store"
            return load()
        # None is Django's word for "for ever": a year, so that what no event names goes at some time.
        return self._leased(key).get(self.make_and_validate_key(key, version=version), load, ttl or YEAR)

    def changed(self, *keys, version=None):
        """As Cache.changed; delete() leaves the lease."""
        if keys:
            self._leased(keys[0]).changed(*(self.make_and_validate_key(key, version=version) for key in keys))

    def _leased(self, key):
        client, serializer = self._cache.get_client(key, write=True), self._cache._serializer
        # The route stores what an event has, which is no pickle.
        form = {} if self._arguments.get("versions") else {"dumps": serializer.dumps, "loads": serializer.loads}
        return Cache(client, **{**form, **self._arguments})
