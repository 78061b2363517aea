//! Faults of machines, disks and strangers, one by one and in any order.

mod chaos;
mod forged_anchors;
mod memory_limit;
mod spool;
mod spool_damage;
mod spool_unavailable;
mod stalled_source;
