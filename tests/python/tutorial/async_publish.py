"""Publishes orders with aio-pika, as many as the second argument says, all of them on their way at once."""

import asyncio
import json
import sys

import aio_pika


async def main(url, count):
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("orders", durable=True)

        def order(order_id):
            return aio_pika.Message(
                json.dumps({"order_id": order_id}).encode(),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                headers={"tenant": "acme"},
            )

        await asyncio.gather(
            *(channel.default_exchange.publish(order(n), routing_key="orders") for n in range(count))
        )
    print(count)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
