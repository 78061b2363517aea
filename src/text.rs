//! Texts and their small languages: templates, patterns, JSON pointers, and bytes made safe to show. Leaves: nothing
//! here knows a server, a route or a configuration.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz_input;
pub mod glob;
pub mod json_pointer;
pub(crate) mod json_values;
pub(crate) mod origin;
pub(crate) mod plural;
pub(crate) mod printable;
pub mod template;
pub(crate) mod userinfo;
