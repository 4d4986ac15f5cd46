// BullMQ: `node peer.mjs work|fill|pick '{"port": …}'`; same commands and options as the Python peers.
import { appendFileSync } from "node:fs";
import { Queue, Worker } from "bullmq";

const [command, json] = process.argv.slice(2);
const options = JSON.parse(json);
const connection = { host: "127.0.0.1", port: options.port, maxRetriesPerRequest: null };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

if (command === "work") {
  let begun = false;
  const begin = () => {
    if (begun) return;
    begun = true;
    appendFileSync(options.out, JSON.stringify({ begun: Date.now() / 1000 }) + "\n");
  };
  new Worker(
    "q",
    async (job) => {
      if (job.name === "mark") {
        appendFileSync(options.out, (performance.timeOrigin + performance.now() - job.data.sent).toFixed(3) + "\n");
        return;
      }
      begin();
      if (job.data.ms) await sleep(job.data.ms);
    },
    { connection, concurrency: options.slots },
  );
} else if (command === "fill") {
  const queue = new Queue("q", { connection });
  for (let start = 0; start < options.count; start += 1000) {
    const size = Math.min(1000, options.count - start);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: "job", data: { ms: options.ms } })));
  }
  await queue.close();
} else {
  const queue = new Queue("q", { connection });
  for (let i = 0; i < options.count; i += 1) {
    await sleep((options.low_s + Math.random() * (options.high_s - options.low_s)) * 1000);
    await queue.add("mark", { sent: performance.timeOrigin + performance.now() });
  }
  await queue.close();
}
