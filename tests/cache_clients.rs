//! Promise: what `clients/` has for readers of a cache keeps to its contract, with the libraries that people use and on real
//! servers.
//!
//! The contract is `clients/conformance/contract.txt`. A driver for each language does what the contract's readers do, and
//! the test says when: a load ends at a chosen moment, so that what must be refused is certain to come too late.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

#[path = "cache_clients/compiled.rs"]
mod compiled;
#[path = "cache_clients/contract.rs"]
mod contract;
#[path = "cache_clients/helper.rs"]
mod helper;
#[path = "cache_clients/in_rust.rs"]
mod in_rust;
#[path = "cache_clients/run.rs"]
mod run;
mod support;
#[path = "../clients/rust/tidegate_cache.rs"]
#[allow(dead_code, unreachable_pub, reason = "a file that is copied does not know what its copy needs")]
mod tidegate_cache;

use std::fs;
use std::path::Path;

use contract::{Case, cases};
use helper::{Helper, Kind, PATIENCE, Settings, folder};
use run::Under;
use serde_json::json;
use support::{Options, Server, Version, eventually};

fn contract() -> Vec<Case> {
    let cases = cases(&fs::read_to_string(folder().join("conformance/contract.txt")).unwrap());
    assert!(cases.len() > 10, "{}", cases.len());
    cases
}

#[track_caller]
fn conforms(kind: Kind, version: Version) {
    let under = Under { kind, version, helpers: &folder() };
    if let Err(error) = under.run(&contract()) {
        panic!("{kind:?} on {version}: {error}");
    }
}

#[test]
fn redis_py() {
    conforms(Kind::RedisPy, Version::Redis62);
}

#[test]
fn redis_py_with_asyncio() {
    conforms(Kind::RedisPyAsyncio, Version::Redis70);
}

#[test]
fn django() {
    conforms(Kind::Django, Version::Valkey80);
}

#[test]
fn node_redis() {
    conforms(Kind::NodeRedis, Version::Redis82);
}

#[test]
fn ioredis() {
    conforms(Kind::IoRedis, Version::Valkey91);
}

#[test]
fn rust() {
    conforms(Kind::Rust, Version::Valkey80);
}

/// Its client tries once to connect, and tries again for a later reader.
#[test]
fn rust_fills_again_once_the_cache_is_back() {
    let mut server = Server::with(Version::Valkey80, Options::default().tcp());
    let mut helper = Helper::start(Kind::Rust, &folder(), &server.url("default"), &Settings::default());
    server.restart();
    let mut reader = 0;
    eventually("a load is stored", PATIENCE, || {
        reader += 1;
        helper.tell(&json!({"reader": reader, "get": "product:1"}))?;
        helper.hear(|message| message["loads"] == true)?;
        helper.tell(&json!({"reader": reader, "loaded": 1}))?;
        helper.hear(|message| message["got"] == 1)?;
        if server.ask(&["EXISTS", "product:1"]) { Ok(()) } else { Err(format!("{reader} readers")) }
    });
}

/// Four copies of each script, none of which may be changed alone.
#[test]
fn the_page_and_the_helpers_fill_by_the_same_script() {
    let page = fs::read_to_string(folder().join("../docs/guides/caching.md")).unwrap();
    for begins in ["```lua\n-- FILL.", "```lua\n-- FILL with versions."] {
        let (_, script) = page.split_once(begins).unwrap();
        let (_, script) = script.split_once('\n').unwrap();
        let (script, _) = script.split_once("\n```").unwrap();
        for name in ["python/tidegate_cache.py", "javascript/tidegate-cache.mjs", "rust/tidegate_cache.rs"] {
            let helper = fs::read_to_string(folder().join(name)).unwrap();
            let ends = ["\"\"\"", "`", "\""].map(|end| helper.contains(&format!("{end}{script}{end}")));
            assert!(ends.contains(&true), "{name}: {begins}");
        }
    }
}

/// A helper with one line changed.
struct Mutant {
    kind: Kind,
    line: &'static str,
    instead: &'static str,
    /// The case that it must fail.
    fails: &'static str,
}

const CHECK: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis";
const UNCHECKED: &str = "redis.call('UNLINK', KEYS[2])
if ARGV[2] then redis";
const VERSIONED_CHECK: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('UNLINK', KEYS[2])
if not ARGV[2]";
const COMPARED: &str = "#old > #new or #old == #new and old >= new";

const MUTANTS: [Mutant; 26] = [
    // It fills without a lease.
    Mutant {
        kind: Kind::RedisPy,
        line: CHECK,
        instead: UNCHECKED,
        fails: "A load that the route overtook is not stored",
    },
    Mutant {
        kind: Kind::NodeRedis,
        line: CHECK,
        instead: UNCHECKED,
        fails: "A load that the route overtook is not stored",
    },
    // Every load has the same token.
    Mutant {
        kind: Kind::RedisPy,
        line: "secrets.token_hex(16)",
        instead: "'token'",
        fails: "A load that the route overtook does not use the lease of the next",
    },
    // Nobody waits.
    Mutant {
        kind: Kind::RedisPy,
        line: "time.monotonic() >= until",
        instead: "True",
        fails: "While one loads, the others wait for its value",
    },
    // An error of the load keeps the lease.
    Mutant {
        kind: Kind::RedisPyAsyncio,
        line: "yield from self._fill(key, lease, token)\n",
        instead: "pass\n",
        fails: "A load that fails is passed on, and gives the lease back",
    },
    Mutant {
        kind: Kind::RedisPy,
        line: "if found is not None:",
        instead: "if found not in (None, b'null'):",
        fails: "Nothing is a value",
    },
    Mutant {
        kind: Kind::IoRedis,
        line: "startsWith('NOSCRIPT')",
        instead: "startsWith('-')",
        fails: "A load fills the cache, and the next reader hits",
    },
    Mutant {
        kind: Kind::RedisPy,
        line: "(token, token.encode())",
        instead: "()",
        fails: "A lease that is one's own is recognised when the client library sends the SET twice",
    },
    // The keys lack what the client puts in front.
    Mutant {
        kind: Kind::IoRedis,
        line: "name.toLowerCase()",
        instead: "name",
        fails: "A load fills the cache, and the next reader hits",
    },
    // It puts an older version in the place of a newer one.
    Mutant {
        kind: Kind::RedisPy,
        line: COMPARED,
        instead: "false",
        fails: "With versions, a newer value is left where it is",
    },
    Mutant {
        kind: Kind::NodeRedis,
        line: COMPARED,
        instead: "false",
        fails: "With versions, a newer value is left where it is",
    },
    // It compares them as numbers.
    Mutant {
        kind: Kind::IoRedis,
        line: COMPARED,
        instead: "tonumber(old) >= tonumber(new)",
        fails: "With versions, they are compared in all their digits",
    },
    // With versions it fills without a lease.
    Mutant {
        kind: Kind::RedisPyAsyncio,
        line: VERSIONED_CHECK,
        instead: "if not ARGV[2]",
        fails: "With versions, a load that the route overtook is not stored",
    },
    Mutant {
        kind: Kind::NodeRedis,
        line: "versions ? ask('HGET', key, 'value') : ",
        instead: "",
        fails: "With versions, what the route has stored is what the next reader gets",
    },
    // A key from before stays, and nobody fills.
    Mutant {
        kind: Kind::IoRedis,
        line: "startsWith('WRONGTYPE')",
        instead: "startsWith('-')",
        fails: "With versions, a key of another type is a miss, and makes way",
    },
    Mutant {
        kind: Kind::RedisPyAsyncio,
        line: "startswith(\"WRONGTYPE\")",
        instead: "startswith(\"-\")",
        fails: "A key of another type is a miss, and makes way",
    },
    // It reads a pickle where the route has stored JSON.
    Mutant {
        kind: Kind::Django,
        line: "{} if self._arguments.get(\"versions\") else ",
        instead: "",
        fails: "With versions, what the route has stored is what the next reader gets",
    },
    // Without the cache there is no answer.
    Mutant {
        kind: Kind::Django,
        line: "except RedisError:\n            mine = False",
        instead: "except ZeroDivisionError:\n            mine = False",
        fails: "A cache that ends during a load does no harm",
    },
    // The rules above, in Rust.
    Mutant {
        kind: Kind::Rust,
        line: CHECK,
        instead: UNCHECKED,
        fails: "A load that the route overtook is not stored",
    },
    Mutant {
        kind: Kind::Rust,
        line: "RandomState::new().build_hasher().finish()",
        instead: "0_u64",
        fails: "A load that the route overtook does not use the lease of the next",
    },
    Mutant {
        kind: Kind::Rust,
        line: "begun.elapsed() >= self.wait",
        instead: "true",
        fails: "While one loads, the others wait for its value",
    },
    Mutant {
        kind: Kind::Rust,
        line: "if mine {",
        instead: "if mine && loaded.is_ok() {",
        fails: "A load that fails is passed on, and gives the lease back",
    },
    Mutant {
        kind: Kind::Rust,
        line: "Some(\"NOSCRIPT\")",
        instead: "Some(\"-\")",
        fails: "A server that does not know the script gets it",
    },
    Mutant {
        kind: Kind::Rust,
        line: "== Some(token)",
        instead: "== Some(\"-\")",
        fails: "A lease that is one's own is recognised when the client library sends the SET twice",
    },
    Mutant {
        kind: Kind::Rust,
        line: "Some(\"WRONGTYPE\")",
        instead: "Some(\"-\")",
        fails: "A key of another type is a miss, and makes way",
    },
    Mutant {
        kind: Kind::Rust,
        line: "cmd(\"HGET\").arg(key).arg(\"value\")",
        instead: "cmd(\"GET\").arg(key)",
        fails: "With versions, what the route has stored is what the next reader gets",
    },
];

/// The helpers, below `clients/`.
const HELPERS: [&str; 4] = [
    "python/tidegate_cache.py",
    "python/tidegate_django.py",
    "javascript/tidegate-cache.mjs",
    "rust/tidegate_cache.rs",
];

/// The folders of `clients/` that hold helpers, with the line changed where it stands.
fn copy(mutant: &Mutant, to: &Path) {
    let mut changed = 0;
    for name in HELPERS {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let is_meant = name.starts_with(mutant.kind.language());
        let found = text.matches(mutant.line).count();
        let text = if is_meant { text.replace(mutant.line, mutant.instead) } else { text };
        changed += if is_meant { found } else { 0 };
        fs::create_dir_all(to.join(name).parent().unwrap()).unwrap();
        fs::write(to.join(name), text).unwrap();
    }
    assert_eq!(changed, 1, "no helper has this line once: {}", mutant.line);
    if mutant.kind == Kind::Rust {
        compiled::put_workspace(to);
    }
}

#[test]
fn a_helper_that_breaks_a_rule_fails_the_case_of_that_rule() {
    for mutant in &MUTANTS {
        let case: Vec<Case> = contract().into_iter().filter(|case| case.name == mutant.fails).collect();
        assert_eq!(case.len(), 1, "the contract has no such case: {}", mutant.fails);
        let temporary = tempfile::tempdir().unwrap();
        let helpers = if mutant.kind == Kind::Rust {
            compiled::folder_of_a_copy()
        } else {
            temporary.path().to_owned()
        };
        copy(mutant, &helpers);
        let under = Under { kind: mutant.kind, version: Version::Redis70, helpers: &helpers };
        let error = under.run(&case).expect_err(mutant.fails);
        println!("{error}");
    }
}
