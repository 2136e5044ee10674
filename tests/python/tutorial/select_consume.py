"""Consumes orders by callbacks alone, until it has had as many as the second argument says."""

import json
import sys

import pika


class SelectConsumer:
    def __init__(self, url, left):
        self.left = left
        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.on_channel),
            on_open_error_callback=lambda connection, error: sys.exit(f"no connection: {error}"),
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )

    def on_channel(self, channel):
        channel.basic_qos(prefetch_count=10, callback=lambda _: channel.basic_consume("orders", self.on_message))

    def on_message(self, channel, method, properties, body):
        print(json.loads(body)["order_id"], flush=True)
        channel.basic_ack(method.delivery_tag)
        self.left -= 1
        if self.left == 0:
            self.connection.close()


SelectConsumer(sys.argv[1], int(sys.argv[2])).connection.ioloop.start()
