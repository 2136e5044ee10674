"""Consumes orders one after the other, until it has had as many as the second argument says."""

import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
# Whoever came first has declared it; another declaration with other arguments would be an error.
channel.queue_declare(queue="orders", passive=True)
channel.basic_qos(prefetch_count=1)
left = int(sys.argv[2])


def on_message(channel, method, properties, body):
    global left
    order = json.loads(body)
    print(order["order_id"], flush=True)
    channel.basic_ack(delivery_tag=method.delivery_tag)
    left -= 1
    if left == 0:
        channel.stop_consuming()


channel.basic_consume(queue="orders", on_message_callback=on_message)
channel.start_consuming()
connection.close()
