"""Priorities: publishes three orders, the most urgent last, or consumes as many as the third argument says."""

import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()


def publish():
    channel.queue_declare("urgent_orders", durable=True, arguments={"x-max-priority": 10})
    channel.confirm_delivery()
    for order_id, priority in ((1, 1), (2, 5), (3, 10)):
        properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent, priority=priority)
        channel.basic_publish("", "urgent_orders", json.dumps({"order_id": order_id}), properties, mandatory=True)
        print(f"sent {order_id} with {priority}")


def consume(count):
    # One at a time: what a consumer holds is overtaken by nothing.
    channel.basic_qos(prefetch_count=1)
    for method, properties, body in channel.consume("urgent_orders"):
        print(json.loads(body)["order_id"], flush=True)
        channel.basic_ack(method.delivery_tag)
        count -= 1
        if count == 0:
            break
    channel.cancel()


if sys.argv[2] == "publish":
    publish()
else:
    consume(int(sys.argv[3]))
connection.close()
