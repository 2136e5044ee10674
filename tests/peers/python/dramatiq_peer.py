"""Dramatiq on RabbitMQ.

What is not the default: confirms (`confirm_delivery`), without which `send` returns before the server has the job. The
worker has the processes and threads that its command line starts by default: one process for each processor, with 8
threads each.
"""

import multiprocessing
import os
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

import common

# Threads that enqueue at once.
THREADS = 4
# Of each process of the worker.
WORKER_THREADS = 8


class Count:
    """Counts what one process has run. Its threads add under the interpreter's lock."""

    def __init__(self):
        self.ran = None

    def add(self):
        with self.ran.get_lock():
            self.ran.value += 1


COUNT = Count()


def connect(given):
    broker = RabbitmqBroker(url=given.url, confirm_delivery=True)
    dramatiq.set_broker(broker)

    @dramatiq.actor(actor_name="noop", queue_name=given.queue)
    def noop(n, text):
        COUNT.add()

    return broker, noop


def enqueue(given):
    _, noop = connect(given)
    pool_jobs = given.jobs - 1
    noop.send(0, common.TEXT)
    began, processor = time.monotonic(), common.processor()
    common.from_threads(THREADS, pool_jobs, lambda n: noop.send(n, common.TEXT))
    common.say(pool_jobs, time.monotonic() - began, common.processor() - processor)
    common.end_at_once()


def work(given, ran, ready, stop):
    COUNT.ran = ran
    broker, _ = connect(given)
    ready.wait()
    worker = dramatiq.Worker(broker, worker_threads=WORKER_THREADS)
    worker.start()
    stop.wait()
    # It waits for what runs, and acknowledges it.
    worker.stop()
    broker.close()


def process(given):
    fork = multiprocessing.get_context("fork")
    counts = [fork.Value("q", 0) for _ in range(os.cpu_count())]
    ready, stop = fork.Barrier(len(counts) + 1), fork.Event()
    workers = [fork.Process(target=work, args=(given, ran, ready, stop)) for ran in counts]
    for worker in workers:
        worker.start()
    ready.wait()
    began, processor = time.monotonic(), common.processor()
    while sum(ran.value for ran in counts) < given.jobs:
        time.sleep(0.002)
    seconds = time.monotonic() - began
    stop.set()
    for worker in workers:
        worker.join()
    common.say(given.jobs, seconds, common.processor() - processor)


if __name__ == "__main__":
    chosen = common.arguments()
    enqueue(chosen) if chosen.command == "enqueue" else process(chosen)
