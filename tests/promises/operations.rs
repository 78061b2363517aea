//! What an operator on call uses: commands that read and repair, and the log.

mod dead_letters;
mod log_output;
mod other_types;
mod replay;
mod tap;
