//! Asks before something that cannot be taken back.

use std::io::{self, BufRead as _, IsTerminal as _};

use super::{Refusal, output};

/// Asks an operator, who may say no; where there is none, `--yes` must have said it.
pub(super) fn agree(question: &str) -> Result<(), Refusal> {
    if !io::stdin().is_terminal() {
        return Err(Refusal::usage(format!("{question} Nothing was done; confirm with --yes")));
    }
    output::ask(&format!("{question} [y/N]"))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Refusal::new(super::FAILED, "nothing was done"))
    }
}
