"""The Fibonacci server with aio-pika, until its standard input is closed."""

import asyncio
import json
import sys

import aio_pika


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


async def main(url):
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        requests = await channel.declare_queue("rpc_queue", passive=True)

        async def on_request(message):
            async with message.process():
                answer = fibonacci(json.loads(message.body)["n"])
                reply = aio_pika.Message(json.dumps(answer).encode(), correlation_id=message.correlation_id)
                await channel.default_exchange.publish(reply, routing_key=message.reply_to)

        await requests.consume(on_request)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(sys.argv[1]))
