//! Capture: from channels into streams.

pub mod mapping;
