//! Who may trim a stream: the instance that writes it, under the revision with which it writes.

use super::Engine;
use super::ending::Ending;
use crate::capture::append::state::revision::RankedRevision;

impl Engine {
    /// The revision under which this instance may trim. `None` if another instance writes, or if this route ends: another
    /// configuration may keep more.
    pub(super) fn trims_under(&self) -> Option<&RankedRevision> {
        let writes = self.leadership.is_leader() && self.ending == Ending::Running;
        self.revision.as_ref().filter(|_| writes)
    }
}
