//! `tidegate acl`.
//!
//! Standard output holds nothing but commands, so that it can be piped into `redis-cli`, which knows no comments. What
//! an operator wants to know stands on standard error.

use std::path::Path;

use clap::Args;
use sha2::{Digest as _, Sha256};

use super::Refusal;
use super::output::{self, tell};
use crate::config::acl::{self, PasswordRule, User};
use crate::config::{self, Config, Endpoint, SecretSource};

#[derive(Debug, Args)]
pub(super) struct AclArguments {
    /// Print the lines for an operator who runs gaps, dead-letters, tap, replay and invalidate, instead of those for the
    /// daemon. The users are those of the configuration: pass one whose URLs name the operator's user
    #[arg(long)]
    operator: bool,
    /// With --operator: a channel that replay may publish on, as an ACL rule names it, such as replay.*
    #[arg(long, value_name = "CHANNEL", requires = "operator")]
    replay_channel: Vec<String>,
    /// The same for replay --sharded (Redis 7.0 or newer)
    #[arg(long, value_name = "CHANNEL", requires = "operator")]
    replay_shard_channel: Vec<String>,
    /// Only the lines for this server; required to pipe them into redis-cli if there are several servers
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Print the SHA-256 of each configured password in place of the word PASSWORD, so that the lines can be run as
    /// they are. Keep them secret: a weak password can be guessed from its hash
    #[arg(long)]
    hash_passwords: bool,
}

/// Prints a line for each user.
pub(super) fn acl(path: &Path, arguments: &AclArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match print(&config, arguments) {
        Ok(()) => super::OK,
        Err(refusal) => refusal.tell(),
    }
}

fn print(config: &Config, arguments: &AclArguments) -> Result<(), Refusal> {
    let users = users(config, arguments)?;
    // All or nothing: half of the lines would look like all of them.
    let mut lines = Vec::new();
    for user in users {
        let password = if arguments.hash_passwords { hashed(config, &user)? } else { PasswordRule::Missing };
        lines.push((user.comments(), user.command(&password)));
    }
    let mut out = output::stdout();
    for (comments, line) in lines {
        for comment in comments {
            tell!("{comment}");
        }
        out.line(line)?;
        // On a terminal the comments stand above their line.
        out.flush()?;
    }
    if !arguments.hash_passwords {
        tell!("# replace PASSWORD by > and the password, such as >secret, or use --hash-passwords");
    }
    Ok(())
}

/// The users that are asked for.
fn users(config: &Config, arguments: &AclArguments) -> Result<Vec<User>, Refusal> {
    let mut users = if arguments.operator {
        let of = |sharded| move |channel: &String| acl::ReplayChannel { channel: channel.clone(), sharded };
        let plain = arguments.replay_channel.iter().map(of(false));
        let replay: Vec<_> = plain.chain(arguments.replay_shard_channel.iter().map(of(true))).collect();
        acl::operators(config, &replay)
    } else {
        acl::users(config)
    };
    let Some(server) = &arguments.server else { return Ok(users) };
    let known: Vec<&str> = endpoints(config).map(|endpoint| endpoint.name.as_str()).collect();
    if !known.contains(&server.as_str()) {
        return Err(Refusal::usage(format!(
            "there is no server '{server}' in the configuration; known: {}",
            known.join(", ")
        )));
    }
    users.retain(|user| user.endpoints.contains(server));
    Ok(users)
}

/// The servers, and the sentinels of some.
fn endpoints(config: &Config) -> impl Iterator<Item = &Endpoint> {
    config.redis.values().flat_map(|endpoint| {
        let sentinels = endpoint.sentinels().map(|sentinels| &sentinels.endpoint);
        std::iter::once(endpoint.as_ref()).chain(sentinels)
    })
}

/// The rule with the hash of the user's password.
fn hashed(config: &Config, user: &User) -> Result<PasswordRule, Refusal> {
    let configured = endpoints(config).filter(|endpoint| user.endpoints.contains(&endpoint.name));
    let source = configured.map(|endpoint| &endpoint.password).find(|source| **source != SecretSource::None);
    let secret = match source {
        Some(SecretSource::Inline(secret) | SecretSource::InConfiguration(secret, _)) => secret.clone(),
        Some(SecretSource::File(path)) => config::read_password(path)
            .map_err(|error| Refusal::new(super::CONFIGURATION, format!("{} {error}", path.display())))?,
        Some(SecretSource::None) | None => {
            tell!("# the configuration has no password for the user {}: replace PASSWORD", user.name);
            return Ok(PasswordRule::Missing);
        }
    };
    let hash = Sha256::digest(secret.reveal());
    Ok(PasswordRule::Hash(hash.iter().map(|byte| format!("{byte:02x}")).collect()))
}
