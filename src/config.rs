//! Configuration: what a person wrote (`raw`) becomes what the daemon runs on ([`Config`]).
//!
//! figment and serde are known only here. The types of [`settings`] are complete and checked:
//! whoever holds one need not ask again whether a name exists or a number fits. The supervisor
//! turns them into the parts of a route at the edge; no loop reads configuration.

pub mod settings;

pub use settings::{
    Address, After, Broadcast, Capture, Config, Daemon, Endpoint, Format, GroupsStart, Include, Keep, Mode,
    Secret, SecretSource, Start,
};
