//! Publishing: batches of entries as PUBLISH commands, and the cursor that moves with them.
//!
//! ```text
//! rate ─▶ publisher ─▶ call ─▶ publish.lua   one server: publish and move the cursor, in one step
//!                  └─▶ remote                two servers: publish first, move the cursor afterwards
//! open ─▶ open.lua                            finds or makes the cursor
//! ```

pub(crate) mod call;
pub(crate) mod count;
pub(crate) mod egress;
pub(crate) mod open;
pub(crate) mod publisher;
pub(crate) mod rate;
