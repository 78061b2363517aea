// What people write in Node: ioredis pipelines by itself, connects again by itself, and subscribes again by itself.
const Redis = require('ioredis');
const [source, destination] = process.argv.slice(2, 4).map((path) => new Redis({ path }));

for (const client of [source, destination]) client.on('error', (error) => console.error(error.message));
source.on('message', (channel, payload) => {
    destination
        .xadd('captured', 'MAXLEN', '~', 100000, '*', 'channel', channel, 'payload', payload)
        .catch((error) => console.error(error.message));
});
source.subscribe('bench').catch((error) => console.error(error.message));
