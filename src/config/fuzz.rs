//! Any text as the configuration file.

#![allow(clippy::unwrap_used, reason = "what cannot go on has found something")]

use std::path::Path;

use super::acl::{self, PasswordRule};
use super::layers::Layers;
use super::{Loaded, Secrets, load_layers};

/// What stands for a password: nothing that is printed may hold it.
const SECRET: &str = "s3cr3t";

/// It is refused with reasons, or it can be used.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let path = Path::new("/nonexistent/tidegate.toml");
    let loaded = Layers::of_text(path, text)
        .and_then(|layers| load_layers(&layers, super::directory(path), None, Secrets::Located));
    match loaded {
        Err(problems) => assert!(!problems.to_string().trim().is_empty()),
        Ok(Loaded { config, .. }) => {
            assert!(!format!("{config:?}").contains(SECRET), "a password was printed");
            for user in acl::users(&config).into_iter().chain(acl::operators(&config, &[])) {
                let command = user.command(&PasswordRule::Missing);
                assert!(!command.contains(char::is_control), "{command:?}");
                assert!(user.comments().iter().all(|line| line.starts_with('#') && !line.contains('\n')));
            }
        }
    }
}
