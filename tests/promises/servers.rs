//! The servers at the other end: who they are, how they are reached, and what they may say.

mod credentials;
mod deployments;
mod hostile_server;
mod life;
mod named;
mod renamed_commands;
mod secrets;
mod sentinel;
mod tls;
