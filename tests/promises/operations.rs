//! What an operator on call uses: commands that read and repair, and the log.

mod dead_letters;
mod log_output;
mod replay;
mod tap;
