//! The append: the one step in which batches become entries, and the state that it keeps.
//!
//! ```text
//! call        how a batch becomes a command, and what the reply says
//! state       the checkpoint and everything beside it, as a connection finds it
//! durability  how far what is stored is durable: on replicas, or on disk
//! ```

pub(crate) mod call;
pub(crate) mod durability;
pub(crate) mod state;
