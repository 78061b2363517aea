//! The search through the holes for those that are acknowledged, a step with each look.

use crate::stream::EntryId;

/// Progress of the scan.
#[derive(Debug)]
pub(crate) struct HoleScan {
    /// After which hole to continue; `None` if a whole search found nothing new since.
    next: Option<EntryId>,
    /// The hole after which the running poll scans.
    sent: Option<EntryId>,
    /// True if something changed since the search began.
    again: bool,
}

impl HoleScan {
    /// A search that begins.
    pub(crate) fn new() -> Self {
        Self { next: Some(EntryId::default()), sent: None, again: false }
    }

    /// Begins anew, and once more after the running poll.
    pub(crate) fn restart(&mut self) {
        self.next = Some(EntryId::default());
        self.again = true;
    }

    /// The hole after which a poll scans, if it `may`; it does in any case while something changes.
    pub(crate) fn send(&mut self, may: bool, active: bool) -> Option<EntryId> {
        if self.next.is_none() && active {
            self.next = Some(EntryId::default());
        }
        self.sent = self.next.filter(|_| may);
        self.sent
    }

    /// A look came to this hole, or to the end, and found the group the `same` as the one before.
    pub(crate) fn on_scanned(&mut self, reached: Option<EntryId>, same: bool) {
        match self.sent {
            // A scan that began with this poll has seen the change.
            Some(begin) if begin == EntryId::default() => self.again = false,
            _ => self.again |= !same,
        }
        if self.sent.is_some() {
            self.next = reached;
        }
        if self.next.is_none() && std::mem::take(&mut self.again) {
            self.next = Some(EntryId::default());
        }
    }

    /// Returns whether it is in the middle.
    pub(crate) fn goes_on(&self) -> bool {
        self.next.is_some_and(|next| next > EntryId::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_to_rest_only_after_a_whole_search_without_a_change() {
        let id = |milliseconds| Some(EntryId { milliseconds, sequence: 0 });
        let mut search = HoleScan::new();
        assert_eq!(search.send(true, false), id(0));
        search.on_scanned(id(5), false);
        assert!(search.goes_on());
        // Holes being published would be found once more.
        assert_eq!(search.send(false, false), None);
        search.on_scanned(None, true);
        assert_eq!(search.send(true, false), id(5));
        // A change in the middle: what lies before may have changed too.
        search.on_scanned(None, false);
        assert_eq!(search.send(true, false), id(0));
        search.on_scanned(None, false);
        assert_eq!(search.send(true, false), None, "one look saw it all");
        assert_eq!(search.send(true, true), id(0));
    }
}
