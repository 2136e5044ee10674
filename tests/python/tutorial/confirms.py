"""Publishes with confirms: one by one with pika, or in batches with aio-pika."""

import asyncio
import json
import sys

import aio_pika
import pika


def single(url, orders):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for order_id in orders:
        # Waits for the server's answer; raises when it is a refusal.
        channel.basic_publish("", "orders", json.dumps({"order_id": order_id}), mandatory=True)
        print(f"confirmed {order_id}")
    connection.close()


async def batch(url, orders, size=100):
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        for start in range(0, len(orders), size):
            messages = [aio_pika.Message(json.dumps({"order_id": n}).encode()) for n in orders[start : start + size]]
            await asyncio.gather(*(channel.default_exchange.publish(m, routing_key="orders") for m in messages))
            print(f"confirmed {len(messages)}")


orders = range(int(sys.argv[3]))
if sys.argv[2] == "single":
    single(sys.argv[1], orders)
else:
    asyncio.run(batch(sys.argv[1], orders))
