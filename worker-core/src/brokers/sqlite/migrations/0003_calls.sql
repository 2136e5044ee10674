-- Who waits for what a job returns, where somebody does.
ALTER TABLE jobs ADD COLUMN reply_to TEXT;          -- the process that called: holders.id, as text
ALTER TABLE jobs ADD COLUMN correlation TEXT;       -- which of its calls
ALTER TABLE jobs ADD COLUMN call_retries INTEGER;   -- 1: it is retried as its job is

-- Replies on their way to another process. They end with it.
CREATE TABLE replies (
    place INTEGER PRIMARY KEY,
    caller INTEGER NOT NULL REFERENCES holders (id) ON DELETE CASCADE,
    correlation TEXT NOT NULL,
    kind TEXT,                              -- of the failure; none for a value
    body BLOB NOT NULL                      -- the value as JSON, or the failure's text
) STRICT;

CREATE INDEX replies_caller ON replies (caller, place);
