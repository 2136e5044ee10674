"""Publishes three orders: the first program of the tutorial."""

import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.queue_declare(queue="orders", durable=True)

for order_id in (1001, 1002, 1003):
    channel.basic_publish(
        exchange="",
        routing_key="orders",
        body=json.dumps({"order_id": order_id, "amount": 49.9}),
        properties=pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, content_type="application/json"
        ),
    )
    print(f"sent {order_id}")

connection.close()
