//! `tidegate acl`.

use std::path::Path;

use crate::config::acl;

/// Prints the ACL lines; each endpoint under a comment with its name.
pub(super) fn acl(config: &Path) -> u8 {
    match super::load(config) {
        Ok(loaded) => {
            for user in acl::users(&loaded.config) {
                println!("{user}");
            }
            super::OK
        }
        Err(code) => code,
    }
}
