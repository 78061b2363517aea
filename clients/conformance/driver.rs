//! Drives `tidegate_cache` through the contract: README.md in this folder.
//!
//! `cache-driver URL WAIT ANSWER [versions]`, in seconds

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};
use serde_json::json;
use tidegate_cache::Cache;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A client that may send each SET twice.
#[derive(Clone)]
struct Client {
    connection: ConnectionManager,
    twice: bool,
}

impl ConnectionLike for Client {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            if self.twice && command.args_iter().next() == Some(Arg::Simple(b"SET")) {
                self.connection.send_packed_command(command).await?;
            }
            self.connection.send_packed_command(command).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// What is told about a load that ends.
type Told = serde_json::Value;

/// What a load gives, or its failure.
fn loaded(told: Result<Told, oneshot::error::RecvError>) -> Result<(Told, Option<String>), String> {
    let mut told = told.map_err(|error| error.to_string())?;
    if let Some(failure) = told["fails"].as_str() {
        return Err(failure.to_owned());
    }
    let version = match &told["version"] {
        Told::Null => None,
        Told::String(version) => Some(version.clone()),
        version => Some(version.to_string()),
    };
    Ok((told["loaded"].take(), version))
}

/// A reader, from its call to its end.
async fn read(cache: Cache<Client>, versions: bool, reader: u64, key: String, told: oneshot::Receiver<Told>) {
    let load = || async {
        println!("{}", json!({"reader": reader, "loads": true}));
        loaded(told.await)
    };
    let got = if versions {
        cache.get_versioned(&key, load).await
    } else {
        cache.get(&key, || async { load().await.map(|(value, _)| value) }).await
    };
    match got {
        Ok(value) => println!("{}", json!({"reader": reader, "got": value})),
        Err(failure) => println!("{}", json!({"reader": reader, "failed": failure})),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, wait, answer, rest @ ..] = words.as_slice() else {
        return Err("cache-driver URL WAIT ANSWER [versions]".into());
    };
    let (wait, answer) =
        (Duration::try_from_secs_f64(wait.parse()?)?, Duration::try_from_secs_f64(answer.parse()?)?);
    let versions = rest == ["versions"];

    let runtime = Runtime::new()?;
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(answer))
        .set_response_timeout(Some(answer));
    let connection =
        runtime.block_on(redis::Client::open(url.as_str())?.get_connection_manager_with_config(config))?;
    let [cache, twice] = [false, true].map(|twice| Cache {
        lease: Duration::from_secs(60),
        wait,
        answer,
        ..Cache::new(Client { connection: connection.clone(), twice })
    });
    println!("{}", json!({"ready": true}));

    let mut loads = HashMap::new();
    for line in std::io::stdin().lines() {
        let message: Told = serde_json::from_str(&line?)?;
        if let Some(keys) = message["changed"].as_array() {
            let keys: Vec<&str> = keys.iter().filter_map(Told::as_str).collect();
            runtime.block_on(cache.changed(&keys))?;
            println!("{}", json!({"changed": true}));
            continue;
        }
        let reader = message["reader"].as_u64().ok_or("a message without a reader")?;
        // A function of `product:{0}` is the caller's own in Rust.
        let called = message["call"].as_str().map(|argument| format!("product:{argument}"));
        if let Some(key) = called.or_else(|| message["get"].as_str().map(str::to_owned)) {
            let (tell, told) = oneshot::channel();
            loads.insert(reader, tell);
            let cache = if message["twice"] == true { &twice } else { &cache };
            runtime.spawn(read(cache.clone(), versions, reader, key, told));
        } else if let Some(tell) = loads.remove(&reader) {
            tell.send(message).map_err(|message| format!("nobody loads: {message}"))?;
        }
    }
    Ok(())
}
