//! `tidegate acl`.

use std::path::Path;

use clap::Args;

use super::output;
use crate::config::acl;

#[derive(Debug, Args)]
pub(super) struct AclArguments {
    /// Print the lines for an operator who runs gaps, dead-letters, tap and replay, instead of those for the daemon.
    /// It uses the users of the configuration: pass a configuration with the operator's user in its urls
    #[arg(long)]
    operator: bool,
    /// With --operator: a channel that replay may publish on, as an ACL rule names it, such as replay.*
    #[arg(long, value_name = "CHANNEL", requires = "operator")]
    replay_channel: Vec<String>,
    /// The same for replay --sharded (Redis 7.0 or newer)
    #[arg(long, value_name = "CHANNEL", requires = "operator")]
    replay_shard_channel: Vec<String>,
}

/// Prints the ACL lines; each server under a comment with its name.
pub(super) fn acl(config: &Path, arguments: &AclArguments) -> u8 {
    let config = match super::load_without_secrets(config) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let users = if arguments.operator {
        let of = |sharded| move |channel: &String| acl::ReplayChannel { channel: channel.clone(), sharded };
        let plain = arguments.replay_channel.iter().map(of(false));
        let replay: Vec<_> = plain.chain(arguments.replay_shard_channel.iter().map(of(true))).collect();
        acl::operators(&config, &replay)
    } else {
        acl::users(&config)
    };
    let lines: Vec<String> = users.iter().map(|user| format!("{user}\n")).collect();
    output::printed(lines.concat(), super::OK)
}
