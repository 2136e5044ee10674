"""Many threads publish through a few connections, which none may use at the same time as another."""

import contextlib
import json
import queue
import sys
from concurrent.futures import ThreadPoolExecutor

import pika


class ConnectionPool:
    def __init__(self, url, size):
        self.free = queue.Queue()
        for _ in range(size):
            connection = pika.BlockingConnection(pika.URLParameters(url))
            channel = connection.channel()
            channel.confirm_delivery()
            self.free.put((connection, channel))

    @contextlib.contextmanager
    def channel(self):
        connection, channel = self.free.get(timeout=30)
        try:
            yield channel
        finally:
            self.free.put((connection, channel))

    def close(self):
        while not self.free.empty():
            connection, _ = self.free.get()
            connection.close()


def publish(order_id):
    with pool.channel() as channel:
        properties = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "orders", json.dumps({"order_id": order_id}), properties, mandatory=True)


pool = ConnectionPool(sys.argv[1], size=4)
with ThreadPoolExecutor(max_workers=16) as threads:
    published = list(threads.map(publish, range(int(sys.argv[2]))))
pool.close()
print(len(published))
