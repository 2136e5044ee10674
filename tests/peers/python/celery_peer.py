"""Celery on RabbitMQ.

What is not the default: confirms, without which `delay` returns before the server has the job; late acknowledgement,
without which a job is lost with its worker; no results; and a higher prefetch, as its guide "Optimizing" advises for
many short tasks.
"""

import os
import time

from celery import Celery, Task
from celery.signals import worker_ready
from celery.worker import state
from celery.worker.request import Request

import common

# Threads that enqueue at once.
THREADS = 4


class Counted(Request):
    """Counts what is acknowledged, in the process that does it: with late acknowledgement, after the run."""

    wanted = 0
    done = 0
    began = ended = processor = 0.0

    def acknowledge(self):
        super().acknowledge()
        Counted.done += 1
        if Counted.done == Counted.wanted:
            Counted.ended = time.monotonic()
            # The loop of the worker's events looks at it.
            state.should_stop = os.EX_OK


class CountedTask(Task):
    Request = Counted


app = Celery("peer", task_cls=CountedTask)


@app.task(name="noop")
def noop(n, text):
    pass


def configure(given):
    app.conf.update(
        broker_url=given.url,
        broker_transport_options={"confirm_publish": True},
        task_default_queue=given.queue,
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=64,
        # What is printed is the result.
        worker_redirect_stdouts=False,
    )


def enqueue(given):
    warm_up = THREADS
    common.from_threads(THREADS, warm_up, lambda n: noop.delay(n, common.TEXT))
    jobs = given.jobs - warm_up
    began, processor = time.monotonic(), common.processor()
    common.from_threads(THREADS, jobs, lambda n: noop.delay(n, common.TEXT))
    common.say(jobs, time.monotonic() - began, common.processor() - processor)
    common.end_at_once()


def process(given):
    Counted.wanted = given.jobs

    @worker_ready.connect(weak=False)
    def ready(**_):
        Counted.began, Counted.processor = time.monotonic(), common.processor()

    # Its own default pool, a process for each processor. Nobody watches it, so it need not tell others what it does.
    worker = app.Worker(
        concurrency=os.cpu_count(),
        loglevel="ERROR",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    common.say(given.jobs, Counted.ended - Counted.began, common.processor() - Counted.processor)


if __name__ == "__main__":
    chosen = common.arguments()
    configure(chosen)
    enqueue(chosen) if chosen.command == "enqueue" else process(chosen)
