// A BullMQ queue with one job, and the worker that does it.
const { Queue, Worker } = require("bullmq");

const connection = { port: Number(process.argv[2]), maxRetriesPerRequest: null };

(async () => {
    const queue = new Queue("orders", { connection });
    const worker = new Worker("orders", async (job) => job.data.id * 2, { connection });
    const completed = new Promise((resume) => worker.once("completed", resume));
    await queue.add("paid", { id: 5 });
    await completed;
    await worker.close();
    await queue.close();
})();
