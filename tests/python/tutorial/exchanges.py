"""The four types of exchange: `declare` makes a queue on each, `publish` sends to each, `take` empties the queues."""

import json
import sys

import pika


def declare(channel):
    channel.exchange_declare("logs_direct", exchange_type="direct", durable=True)
    for queue, severities in {"alarms": ["error"], "log_file": ["info", "warning", "error"]}.items():
        channel.queue_declare(queue, durable=True)
        for severity in severities:
            channel.queue_bind(queue, "logs_direct", routing_key=severity)

    channel.exchange_declare("announcements", exchange_type="fanout", durable=True)
    for queue in ("by_mail", "by_text"):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "announcements")

    channel.exchange_declare("shop", exchange_type="topic", durable=True)
    for queue, pattern in {"europe": "order.*.eu", "orders_of_all": "order.#"}.items():
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "shop", routing_key=pattern)

    channel.exchange_declare("documents", exchange_type="headers", durable=True)
    for queue, match in {"pdf_reports": "all", "pdfs_or_reports": "any"}.items():
        channel.queue_declare(queue, durable=True)
        arguments = {"x-match": match, "format": "pdf", "kind": "report"}
        channel.queue_bind(queue, "documents", arguments=arguments)


def publish(channel):
    def send(exchange, key, body, headers=None):
        properties = pika.BasicProperties(headers=headers, delivery_mode=2)
        channel.basic_publish(exchange, key, json.dumps(body), properties, mandatory=True)

    send("logs_direct", "error", {"severity": "error", "text": "disk full"})
    send("logs_direct", "info", {"severity": "info", "text": "started"})
    send("announcements", "", {"text": "closed on Sunday"})
    send("shop", "order.created.eu", {"order_id": 1, "country": "eu"})
    send("shop", "order.created.us", {"order_id": 2, "country": "us"})
    send("documents", "", {"page": 1}, {"format": "pdf", "kind": "report"})
    send("documents", "", {"page": 2}, {"format": "pdf", "kind": "invoice"})


def take(channel):
    queues = ["alarms", "log_file", "by_mail", "by_text", "europe", "orders_of_all", "pdf_reports", "pdfs_or_reports"]
    taken = {}
    for queue in queues:
        taken[queue] = []
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                break
            taken[queue].append(json.loads(body))
    print(json.dumps(taken))


connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()
{"declare": declare, "publish": publish, "take": take}[sys.argv[2]](channel)
connection.close()
