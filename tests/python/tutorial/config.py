"""Connects as the variables RABBITMQ_* say; then publishes an order (`publish`) or consumes one (`consume`)."""

import json
import os
import sys
from dataclasses import dataclass, field

import pika


@dataclass
class RabbitMQConfig:
    host: str = field(default_factory=lambda: os.environ.get("RABBITMQ_HOST", "localhost"))
    port: int = field(default_factory=lambda: int(os.environ.get("RABBITMQ_PORT", "5672")))
    user: str = field(default_factory=lambda: os.environ.get("RABBITMQ_USER", "guest"))
    password: str = field(default_factory=lambda: os.environ.get("RABBITMQ_PASSWORD", "guest"))
    vhost: str = field(default_factory=lambda: os.environ.get("RABBITMQ_VHOST", "/"))
    heartbeat: int = field(default_factory=lambda: int(os.environ.get("RABBITMQ_HEARTBEAT", "60")))

    def parameters(self):
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
            heartbeat=self.heartbeat,
        )


connection = pika.BlockingConnection(RabbitMQConfig().parameters())
channel = connection.channel()
channel.confirm_delivery()
if sys.argv[1] == "publish":
    channel.basic_publish("", "orders", json.dumps({"id": "A-7", "amount": 49.9}), mandatory=True)
else:
    method, properties, body = next(channel.consume("orders", inactivity_timeout=20))
    channel.basic_ack(method.delivery_tag)
    print(body.decode())
connection.close()
