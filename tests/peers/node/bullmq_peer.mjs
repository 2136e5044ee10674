// BullMQ on Redis.
//
// What is not the default: jobs that are done are removed, as its guide "Auto-removal of jobs" advises, and up to 100
// run at once in a worker (`concurrency`). Bulk adding is its fastest way to enqueue ("Adding jobs in bulk"): a
// transaction of 100 jobs each.

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const require = createRequire(`${process.env.WORKER_PEERS_NODE}/package.json`);
const { Queue, Worker } = require("bullmq");

const TEXT = "a payload of a usual size for a job: some ids, a template, an address; 0123456789";
const CONCURRENCY = 100;
const BULK = 100;
// Bulks on their way at once.
const BULKS = 4;

const option = { type: "string" };
const given = parseArgs({
  allowPositionals: true,
  options: { url: option, queue: option, jobs: option, kind: option },
});
const [command] = given.positionals;
const { url, queue: name } = given.values;
const jobs = Number(given.values.jobs);
const { hostname: host, port } = new URL(url);
// A worker waits for as long as it takes.
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function start() {
  const [began, used] = [performance.now(), process.cpuUsage()];
  return (count) => {
    const { user, system } = process.cpuUsage(used);
    return { jobs: count, seconds: (performance.now() - began) / 1e3, cpu_seconds: (user + system) / 1e6 };
  };
}

async function enqueue() {
  const queue = new Queue(name, { connection, defaultJobOptions: { removeOnComplete: true } });
  const bulk = (from, to) =>
    queue.addBulk(Array.from({ length: to - from }, (_, n) => ({ name: "noop", data: { n: from + n, text: TEXT } })));
  await bulk(0, 1);
  let next = 1;
  const stop = start();
  const adding = Array.from({ length: BULKS }, async () => {
    while (next < jobs) {
      const from = next;
      next = Math.min(jobs, from + BULK);
      await bulk(from, next);
    }
  });
  await Promise.all(adding);
  say(stop(jobs - 1));
  process.exit(0);
}

async function work() {
  let ran = 0;
  let all;
  const done = new Promise((resolve) => (all = resolve));
  const worker = new Worker(name, async () => {}, { connection, concurrency: CONCURRENCY, autorun: false });
  worker.on("error", (error) => console.error(error.message));
  // Emitted when Redis has moved it to the jobs that are done.
  worker.on("completed", () => {
    ran += 1;
    if (ran === jobs) all();
  });
  await worker.waitUntilReady();
  const stop = start();
  worker.run();
  await done;
  say(stop(jobs));
  await worker.close();
}

async function count() {
  const queue = new Queue(name, { connection });
  const counts = await queue.getJobCounts("wait", "active", "delayed", "prioritized", "paused", "failed");
  say({ jobs: Object.values(counts).reduce((sum, some) => sum + some, 0) });
  await queue.close();
}

await { enqueue, process: work, count }[command]();
