-- Exchanges that were declared: they keep nothing, and choose queues when something is published to them.
CREATE TABLE exchanges (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL                       -- direct, fanout, topic, headers
) STRICT, WITHOUT ROWID;

-- Which queue gets a copy of what is published to which exchange.
CREATE TABLE bindings (
    exchange TEXT NOT NULL REFERENCES exchanges (name),
    queue TEXT NOT NULL REFERENCES queues (name),
    criterion TEXT NOT NULL,                 -- JSON: {"key": …}, {"allof": {…}}, {"anyof": {…}}
    PRIMARY KEY (exchange, queue, criterion)
) STRICT, WITHOUT ROWID;
