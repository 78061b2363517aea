//! The client libraries that people use.

use std::path::PathBuf;

/// Where `scripts/servers.sh clients` put them: `python` for PYTHONPATH, `node/node_modules` for NODE_PATH.
pub(crate) fn client_libraries() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    let mut above = own.ancestors().map(|directory| directory.join("clients"));
    // Above target/ lies a folder of the same name, with the helpers.
    above
        .find(|libraries| libraries.join("python/installed").exists())
        .expect("the client libraries are installed by scripts/servers.sh")
}
