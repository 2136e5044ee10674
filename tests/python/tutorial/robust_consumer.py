"""Retries what fails with a count in the message, and rejects it for good into a queue of dead letters.

It stops after as many deliveries as the second argument says. Orders below zero fail.
"""

import datetime
import json
import sys

import pika

MAX_RETRIES = 3


class RobustConsumer:
    def __init__(self, url):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.declare()
        self.channel.basic_qos(prefetch_count=1)

    def declare(self):
        self.channel.exchange_declare("orders_dlx", exchange_type="direct", durable=True)
        self.channel.queue_declare("orders_dlq", durable=True, arguments={"x-message-ttl": 86_400_000})
        self.channel.queue_bind("orders_dlq", "orders_dlx", routing_key="orders")
        arguments = {"x-dead-letter-exchange": "orders_dlx", "x-dead-letter-routing-key": "orders"}
        self.channel.queue_declare("orders", durable=True, arguments=arguments)

    def on_message(self, channel, method, properties, body):
        retries = (properties.headers or {}).get("x-retry-count", 0)
        print(f"attempt {retries + 1}", flush=True)
        try:
            ship(**json.loads(body))
        except Exception as error:
            if retries < MAX_RETRIES:
                self.retry(properties, body, retries + 1, error)
                channel.basic_ack(method.delivery_tag)
            else:
                channel.basic_reject(method.delivery_tag, requeue=False)  # to `orders_dlq`
        else:
            channel.basic_ack(method.delivery_tag)

    def retry(self, properties, body, retries, error):
        # What the server has written is about a former way of the message: a copy must not have it.
        own = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")
        headers = {name: value for name, value in (properties.headers or {}).items() if not name.startswith(own)}
        headers["x-retry-count"] = retries
        headers["x-last-error"] = str(error)
        headers["x-retry-timestamp"] = datetime.datetime.now(datetime.timezone.utc).isoformat()
        properties.headers = headers
        self.channel.basic_publish("", "orders", body, properties, mandatory=True)

    def run(self, deliveries):
        for _ in range(deliveries):
            self.on_message(self.channel, *next(self.channel.consume("orders")))
        self.channel.cancel()
        self.connection.close()


def ship(order_id):
    if order_id < 0:
        raise ValueError(f"order {order_id} does not exist")


RobustConsumer(sys.argv[1]).run(int(sys.argv[2]))
