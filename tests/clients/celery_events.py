"""Celery stores a result and sends an event of a worker."""

import sys

from celery import Celery

url = f"redis://localhost:{sys.argv[1]}/0"
app = Celery("shop", broker=url, backend=url)
with app.events.default_dispatcher() as events:
    events.send("task-succeeded", uuid="4711", result="42")
app.backend.store_result("4711", 42, "SUCCESS")
