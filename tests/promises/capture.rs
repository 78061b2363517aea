//! Into a stream: what is stored, in which order, and what is left out.

mod blocked;
mod destination_faults;
mod durable;
mod entries;
mod exact;
mod filter;
mod keyspace;
mod memory;
mod oversized;
mod real_clients;
mod rejected;
mod restart;
mod software;
mod source_faults;
mod strangers;
mod trim;
mod untaken;
