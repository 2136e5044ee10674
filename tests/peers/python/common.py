"""What the peers written in Python share: their command line, and the line they print."""

import argparse
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor

TEXT = "a payload of a usual size for a job: some ids, a template, an address; 0123456789"


def arguments():
    """`enqueue|process --url URL --queue NAME --jobs N`, as for all peers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["enqueue", "process"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--kind", help="ignored: the queues are classic ones")
    return parser.parse_args()


def processor():
    """The processor time of this process and of its children that have ended, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def say(jobs, seconds, cpu_seconds):
    print(json.dumps({"jobs": jobs, "seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


def from_threads(threads, jobs, enqueue):
    """Calls `enqueue(n)` for each of so many jobs, from so many threads that each wait for their own."""

    def share(thread):
        for n in range(thread, jobs, threads):
            enqueue(n)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def end_at_once():
    """As a process ends that is killed: nothing is flushed or closed."""
    os._exit(0)
