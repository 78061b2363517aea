// node-redis publishes on a channel, and reads the stream as a member of a consumer group.
const { createClient } = require("redis");

const [port, count] = process.argv.slice(2).map(Number);

(async () => {
    const client = await createClient({ socket: { port } }).connect();
    for (let n = 0; n < count; n++) await client.publish("orders.node", JSON.stringify({ n }));
    let seen = 0;
    while (seen < count) {
        const options = { COUNT: 50, BLOCK: 20_000 };
        const replies = await client.xReadGroup("inventory", "worker", { key: "orders", id: ">" }, options);
        if (!replies) throw new Error(`only ${seen} entries`);
        for (const { id, message } of replies[0].messages) {
            if (JSON.parse(message.payload).n !== seen) throw new Error(`${id}: ${message.payload}`);
            seen += await client.xAck("orders", "inventory", id);
        }
    }
    console.log(seen);
    await client.close();
})();
