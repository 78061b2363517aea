// Two Socket.IO servers with the Redis adapter. One emits an event and asks for the sockets of both.
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const Redis = require("ioredis");

const [port, subscribers] = process.argv.slice(2).map(Number);

(async () => {
    const clients = [0, 1].map(() => {
        const publisher = new Redis({ port });
        return [publisher, publisher.duplicate()];
    });
    const servers = clients.map(
        ([publisher, subscriber]) =>
            new Server({ adapter: createAdapter(publisher, subscriber, { requestsTimeout: 2000 }) }),
    );
    const counted = async () => (await clients[0][0].pubsub("NUMSUB", "socket.io-request#/#"))[1];
    while ((await counted()) < subscribers) await new Promise((resume) => setImmediate(resume));
    servers[0].emit("order", { id: 5 });
    try {
        console.log("sockets", (await servers[0].fetchSockets()).length);
    } catch (error) {
        console.log("error", error.message);
    }
    process.exit(0);
})();
