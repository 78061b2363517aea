//! RESP, the protocol: a bounded reader that copies nothing, and a writer of commands.
//!
//! A server may be hostile or broken, so every length is checked before it is believed: the reader
//! never holds more than its limit, whatever a header announces, and all readers together no more than theirs.

mod account;
mod long_name;
mod reader;
mod token;
mod value;
mod write;

pub use long_name::{CHANNEL_BYTES, HEAD_BYTES, LongName, LongNamed};
pub use reader::{Limits, Message, Pushed, Reader};
pub use token::{ProtocolError, Token, bulk_header, count_header, token};
pub use value::Value;
#[cfg(test)]
pub(crate) use write::reply;
pub use write::{MAX_ARGUMENTS, argument, argument_of, command, header, login, number_argument};
