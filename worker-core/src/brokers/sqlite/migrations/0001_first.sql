-- Jobs that are waiting or running. A row leaves this table when its job ends.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,            -- order of enqueueing
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,             -- 0 ready, 1 delayed, 2 suspect, 3 held
    priority INTEGER NOT NULL,          -- 0 to 31, higher first
    due_ms INTEGER,                     -- delayed: not before, unix time
    holder INTEGER,                     -- held: by whom (holders.id)
    fence INTEGER,                      -- held: which hand-out of that holder
    retries INTEGER NOT NULL,           -- attempts that failed so far
    starts INTEGER NOT NULL,            -- starts that never ended: the process was gone
    id TEXT NOT NULL,
    name TEXT,
    enqueued_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    unknown_since_ms INTEGER,
    last_error TEXT,                    -- why the last attempt failed
    headers TEXT,                       -- JSON object
    body BLOB NOT NULL
) STRICT;

-- One index per state, so that a job is in just one, and each query walks only what it wants.
CREATE INDEX jobs_ready ON jobs (queue, priority DESC, seq) WHERE state = 0;
CREATE INDEX jobs_delayed ON jobs (queue, due_ms) WHERE state = 1;
CREATE INDEX jobs_suspect ON jobs (queue, starts, seq) WHERE state = 2;
CREATE INDEX jobs_held ON jobs (holder) WHERE state = 3;

-- Jobs that left their queue without success, kept until a person decides.
CREATE TABLE dead_letters (
    place INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, so that pages neither repeat nor skip
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT,
    attempts INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    kind TEXT NOT NULL,
    error TEXT NOT NULL,
    died_ms INTEGER NOT NULL,
    enqueued_ms INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    headers TEXT,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX dead_letters_queue ON dead_letters (queue, place);
CREATE INDEX dead_letters_id ON dead_letters (id);

-- Queues that were declared: what enqueueing and consuming is allowed for.
CREATE TABLE queues (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Processes that consume. Each also holds a lock on a file of its own, whose name is its id.
CREATE TABLE holders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,    -- never reused, or a late settlement could hit another's job
    pid INTEGER NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT;

-- What they consume.
CREATE TABLE consumers (
    holder INTEGER NOT NULL REFERENCES holders (id) ON DELETE CASCADE,
    subscription INTEGER NOT NULL,
    queue TEXT NOT NULL,
    PRIMARY KEY (holder, subscription)
) STRICT, WITHOUT ROWID;
