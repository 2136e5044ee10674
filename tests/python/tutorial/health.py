"""How deep the queues are, by passive declarations; the exit code is 1 when the first is deeper than the limit."""

import json
import sys

import pika

url, limit, *queues = sys.argv[1:]
try:
    connection = pika.BlockingConnection(pika.URLParameters(url))
except pika.exceptions.AMQPConnectionError as error:
    sys.exit(f"RabbitMQ is not reachable: {error!r}")
channel = connection.channel()
found = {}
for queue in queues:
    declared = channel.queue_declare(queue, passive=True).method
    found[queue] = {"ready": declared.message_count, "consumers": declared.consumer_count}
connection.close()
print(json.dumps(found))
sys.exit(1 if found[queues[0]]["ready"] > int(limit) else 0)
