"""Consumes orders with aio-pika, ten of them at once, until it has had as many as the second argument says."""

import asyncio
import json
import sys

import aio_pika


async def main(url, count):
    connection = await aio_pika.connect_robust(url)
    done = asyncio.Queue()

    async def on_message(message):
        async with message.process(requeue=False):  # acknowledged at the end, rejected after an exception
            await asyncio.sleep(0)  # where a real one waits for something
            await done.put(json.loads(message.body)["order_id"])

    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        orders = await channel.declare_queue("orders", passive=True)
        tag = await orders.consume(on_message)
        for _ in range(count):
            print(await done.get(), flush=True)
        await orders.cancel(tag)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
