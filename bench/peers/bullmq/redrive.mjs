// BullMQ: `node redrive.mjs '{"port": …, "count": …}'`: let jobs fail, then put them back by retryJobs.
import { Queue, Worker } from "bullmq";

const options = JSON.parse(process.argv[2]);
const connection = { host: "127.0.0.1", port: options.port, maxRetriesPerRequest: null };
const queue = new Queue("q", { connection });
const data = { text: "x".repeat(220) };
for (let start = 0; start < options.count; start += 1000) {
  const size = Math.min(1000, options.count - start);
  await queue.addBulk(Array.from({ length: size }, () => ({ name: "job", data })));
}
const worker = new Worker(
  "q",
  async () => {
    throw new Error("the supplier did not answer");
  },
  { connection, concurrency: 200 },
);
while ((await queue.getFailedCount()) < options.count) await new Promise((resolve) => setTimeout(resolve, 50));
await worker.close();
const began = performance.now();
await queue.retryJobs({ state: "failed", count: 1000 });
const took = (performance.now() - began) / 1000;
const waiting = await queue.getWaitingCount();
if (waiting !== options.count) throw new Error(`only ${waiting} of ${options.count} are back`);
console.log(JSON.stringify({ per_s: options.count / took, done: options.count }));
await queue.close();
