//! From an entry to its message: the filter first, then the templates.

pub(crate) mod render;
pub(crate) mod withheld;

use crate::config;
use crate::filter::Filter;
use crate::stream::entries::StreamEntry;
use crate::text::origin::Unmarkable;
use render::{Rendered, Renderer};
use withheld::{Unrenderable, Withheld};

/// A route's filter and templates.
#[derive(Debug)]
pub(super) struct MessageMaker {
    filter: Filter,
    payload_field: String,
    renderer: Renderer,
}

impl MessageMaker {
    pub(super) fn new(settings: &config::Broadcast) -> Self {
        Self {
            filter: Filter::new(&settings.conditions),
            payload_field: settings.payload_field.clone(),
            renderer: Renderer::new(settings),
        }
    }

    /// The channel and the message of an entry, or why it is not published.
    pub(super) fn of<'b>(&'b mut self, entry: &StreamEntry<'b>) -> Rendered<'b> {
        if !self.filter.passes(&entry.looked(&self.payload_field)) {
            return Err(Withheld::Filtered);
        }
        self.renderer.render(entry).map_err(|why| match why {
            // It is an echo, which another daemon has brought back.
            Unrenderable::Origin(Unmarkable::Marked) => Withheld::Filtered,
            why => Withheld::Unrenderable(why),
        })
    }
}
