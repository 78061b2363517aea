//! Following a consumer group, for `after = "GROUP"`: an entry is published once the group has acknowledged it.
//!
//! ```text
//! poll_schedule ─▶ ack_state.lua ─▶ ack_state ─▶ follower ─▶ buffer ─▶ publish
//! ack_notifier ──┘  one step        how far the  what to     entries that were read
//! wakes the poll                    group is     read now    and are not acknowledged
//! holes      with order = "acknowledgement": entries that the cursor has passed and that are still pending
//! ```

pub(crate) mod ack_notifier;
pub(crate) mod ack_state;
pub(crate) mod buffer;
pub(crate) mod follower;
pub(crate) mod holes;
pub(crate) mod poll_schedule;
