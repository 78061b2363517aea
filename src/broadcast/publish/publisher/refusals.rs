//! Refusals: which failure is attributed to a single entry, and when an entry is given up.
//!
//! A channel from the template may be refused for one entry only. A message larger than a server takes ends the
//! connection, or is answered with `ERR`. Anything else is a failure of the route.

use super::REFUSED_IN_A_ROW;
use crate::broadcast::failure::SessionFailure;
use crate::broadcast::message::withheld::Unrenderable;
use crate::broadcast::publish::open::Failing;
use crate::server::Error;
use crate::status::RouteEndpoint;
use crate::stream::EntryId;

/// What a session knows of refused entries.
#[derive(Debug)]
pub(super) struct Refusals {
    /// True if a template makes the channel: then one channel may be refused and others not.
    channels_differ: bool,
    /// True if a failure may be attributed to a single entry.
    attributes: bool,
    /// The entry that was refused as often as allowed.
    given_up: Option<Failing>,
    /// The refusal that ends this session.
    refused: Option<SessionFailure>,
}

impl Refusals {
    /// Those of a route whose entries all have one channel, and none of whose entries failed before.
    pub(super) fn none() -> Self {
        Self { channels_differ: false, attributes: true, given_up: None, refused: None }
    }

    /// `failing` is the entry that was refused last; it is given up after `max_deliveries` refusals.
    pub(super) fn new(channels_differ: bool, failing: Option<&Failing>, max_deliveries: u64) -> Self {
        let attributes = failing.is_none_or(|failing| failing.row <= REFUSED_IN_A_ROW);
        let given_up = failing.filter(|failing| attributes && failing.failures >= max_deliveries);
        Self { channels_differ, attributes, given_up: given_up.cloned(), refused: None }
    }

    /// Returns whether a refusal ends this session.
    pub(super) fn has_one(&self) -> bool {
        self.refused.is_some()
    }

    /// Takes the refusal that ends this session.
    pub(super) fn take(&mut self) -> Option<SessionFailure> {
        self.refused.take()
    }

    /// Returns the reason of the dead letter if this entry was refused as often as it may be.
    pub(super) fn take_given_up(&mut self, id: EntryId) -> Option<Unrenderable> {
        let given_up = self.given_up.take_if(|given_up| given_up.entry == id)?;
        Some(Unrenderable::Refused(given_up.failures, given_up.error))
    }

    /// Takes in that the stream's server refused a command of the script: the PUBLISH of this entry, or another one.
    pub(super) fn on_script_refused(&mut self, entry: Option<EntryId>, error: Error) {
        let own = self.attributes && self.channels_differ && entry.is_some();
        self.refused = Some(SessionFailure::Refused { side: RouteEndpoint::Source, entry, own, error });
    }

    /// Takes in that the other server refused the message of this entry. `large`: it is larger than a batch.
    pub(super) fn on_publish_refused(&mut self, entry: Option<EntryId>, large: bool, error: Error) {
        let too_large = large && error.code() == Some("ERR");
        let own = self.attributes && (self.channels_differ || too_large);
        self.refused = Some(SessionFailure::of_publish(RouteEndpoint::Destination, entry, own, error));
    }

    /// Returns the failure of a script; `large` is its entry, if that is larger than a batch.
    pub(super) fn of_script(&self, large: Option<EntryId>, error: Error) -> SessionFailure {
        let too_large = large.filter(|_| error.code() == Some("ERR"));
        self.of_connection(RouteEndpoint::Source, too_large, error)
    }

    /// Returns the failure of a connection; `large` is the entry that was being published, if that is larger than a
    /// batch: it may be the reason.
    pub(super) fn of_connection(
        &self,
        side: RouteEndpoint,
        large: Option<EntryId>,
        error: Error,
    ) -> SessionFailure {
        match large.filter(|_| self.attributes) {
            None => SessionFailure::Server { side, error },
            entry => SessionFailure::Refused { side, entry, own: true, error },
        }
    }
}
