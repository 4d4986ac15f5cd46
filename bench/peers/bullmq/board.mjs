// bull-board: `node board.mjs '{"port": …, "web_port": …, "count": …}'`: fill a queue, then ask for its first page.
import { createBullBoard } from "@bull-board/api";
import { BullMQAdapter } from "@bull-board/api/bullMQAdapter";
import { ExpressAdapter } from "@bull-board/express";
import { Queue } from "bullmq";
import express from "express";

const options = JSON.parse(process.argv[2]);
const connection = { host: "127.0.0.1", port: options.port, maxRetriesPerRequest: null };
const queue = new Queue("q0", { connection });
for (let start = 0; start < options.count; start += 5000) {
  const size = Math.min(5000, options.count - start);
  await queue.addBulk(Array.from({ length: size }, (_, n) => ({ name: "generic", data: { tenant: start + n } })));
}
const adapter = new ExpressAdapter();
adapter.setBasePath("/");
createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter: adapter });
const app = express();
app.use("/", adapter.getRouter());
const server = app.listen(options.web_port, "127.0.0.1");
await new Promise((resolve) => server.once("listening", resolve));
const page = `http://127.0.0.1:${options.web_port}/api/queues?activeQueue=q0&status=waiting&page=1&jobsPerPage=50`;
const spent = [];
for (let n = 0; n < 6; n++) {
  const began = performance.now();
  const answer = await fetch(page);
  const told = await answer.json();
  spent.push(performance.now() - began);
  const shown = told.queues.find((one) => one.name === "q0").jobs.length;
  if (shown !== 50) throw new Error(`bull-board shows ${shown} jobs: ${JSON.stringify(told).slice(0, 300)}`);
}
spent.shift(); // the first one warms it up
spent.sort((a, b) => a - b);
console.log(JSON.stringify({ ms: spent[Math.floor(spent.length / 2)], jobs: options.count }));
server.close();
await queue.close();
process.exit(0);
