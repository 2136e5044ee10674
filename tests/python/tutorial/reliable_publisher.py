"""A publisher that says of each message whether it is safe, with many on their way at once."""

import asyncio
import json
import sys

import aio_pika
from aio_pika.exceptions import DeliveryError, PublishError


class ReliablePublisher:
    async def connect(self, url):
        self.connection = await aio_pika.connect(url)
        self.channel = await self.connection.channel(publisher_confirms=True, on_return_raises=True)
        self.exchange = await self.channel.get_exchange("shop")

    async def publish(self, key, body):
        message = aio_pika.Message(json.dumps(body).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.exchange.publish(message, key, mandatory=True, timeout=10)

    async def publish_all(self, messages):
        """What became of each: `None`, or why it is nowhere."""
        answers = await asyncio.gather(*(self.publish(*message) for message in messages), return_exceptions=True)
        return answers


async def main(url, count, misaddressed):
    publisher = ReliablePublisher()
    await publisher.connect(url)
    keys = ["order.lost" if n == misaddressed else "order.created" for n in range(count)]
    answers = await publisher.publish_all([(key, {"order_id": n}) for n, key in enumerate(keys)])
    await publisher.connection.close()
    print(
        json.dumps(
            {
                "confirmed": answers.count(None),
                "returned": [n for n, answer in enumerate(answers) if isinstance(answer, PublishError)],
                "refused": [n for n, answer in enumerate(answers) if type(answer) is DeliveryError],
            }
        )
    )


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
