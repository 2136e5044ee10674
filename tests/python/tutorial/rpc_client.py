"""Calls the Fibonacci server with aio-pika, several calls at once on one connection."""

import asyncio
import json
import sys
import uuid

import aio_pika


class FibonacciClient:
    async def connect(self, url):
        self.connection = await aio_pika.connect_robust(url)
        self.channel = await self.connection.channel()
        self.replies = await self.channel.declare_queue(exclusive=True)
        self.waiting = {}
        await self.replies.consume(self.on_reply, no_ack=True)

    async def on_reply(self, message):
        self.waiting.pop(message.correlation_id).set_result(message)

    async def call(self, n):
        correlation_id = str(uuid.uuid4())
        self.waiting[correlation_id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            json.dumps({"n": n}).encode(), correlation_id=correlation_id, reply_to=self.replies.name
        )
        future = self.waiting[correlation_id]
        await self.channel.default_exchange.publish(message, routing_key="rpc_queue")
        reply = await asyncio.wait_for(future, timeout=20)
        if "x-failure-kind" in reply.headers:
            raise RuntimeError(json.loads(reply.body)["error"]["message"])
        return json.loads(reply.body)


async def main(url):
    client = FibonacciClient()
    await client.connect(url)
    answers = await asyncio.gather(*(client.call(n) for n in (10, 30, 91)), return_exceptions=True)
    print(json.dumps([str(answer) for answer in answers]))
    print(client.replies.name)
    await client.connection.close()


asyncio.run(main(sys.argv[1]))
