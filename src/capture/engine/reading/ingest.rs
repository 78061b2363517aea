//! From an item of the source into its batch. It runs for each message, and allocates only what a batch shares.

use crate::capture::engine::handover::Border;
use crate::capture::engine::spill::MemoryRoom;
use crate::capture::engine::{Engine, Notice, Side};
use crate::capture::left_out::left_out;
use crate::capture::mapping::{Context, Rejection};
use crate::logs::LogCode;
use crate::position::{Epoch, Position};
use crate::rt::Moment;
use crate::server::resp::Message;
use crate::source::item::Item;

/// Whether reading continues, and if not, why.
#[derive(Debug)]
pub(in crate::capture) enum Flow {
    /// It continues.
    Go,
    /// Everything published before the stop is read.
    Fence,
    /// The successor reads from here on.
    Border(Position),
    /// The source violated the protocol.
    Broken(String),
    /// The source went back to numbers that this window has passed.
    Numbered(String),
    /// The route's share of memory is used up.
    Full,
}

/// One pass over everything that has arrived.
#[derive(Debug)]
pub(in crate::capture) struct Pass {
    read: Moment,
    room: MemoryRoom,
    /// Messages of the route.
    pub(in crate::capture) received: u64,
}

impl Engine {
    /// Begins one read of the open window or tap. Each item goes to [`Self::take`], the end to [`Self::end_read`].
    pub(in crate::capture) fn begin_read(&mut self, now: Moment) -> Pass {
        self.on_heard(now);
        if let Some(unix_ms) = self.complete_unix_ms(now) {
            self.builder.set_complete(unix_ms);
        }
        Pass { read: now, room: self.room(), received: 0 }
    }

    /// Takes an item in.
    pub(in crate::capture) fn take(&mut self, pass: &mut Pass, item: &Item<'_>) -> Flow {
        match item {
            Item::Message { message, size, offset } => {
                let Some(open) = &mut self.reading.open else { return Flow::Go };
                let position = open.place(*offset);
                pass.received += 1;
                self.take_message(pass, position, message, *size)
            }
            Item::LongNamed { message, channel_size, size, offset } => {
                let Some(open) = &mut self.reading.open else { return Flow::Go };
                let position = open.place(*offset);
                pass.received += 1;
                self.take_long_named(pass, position, message, (*channel_size, *size))
            }
            Item::Anchor { epoch, offset } => self.take_anchor(pass, *epoch, *offset),
            Item::Heartbeat { instance, sent_us } => {
                if *instance == self.settings.beat.instance {
                    self.reading.heartbeat_unix_ms = Some(pass.read.unix_ms);
                    // Only now: a server that takes connections and breaks them is no live one.
                    self.reading.backoff.reset();
                    self.reading.avoids_preferred = false;
                    if let Some(age) = self.settings.beat.age(*sent_us, pass.read.at) {
                        self.reading.beat_sent = pass.read.at.checked_sub(age);
                        self.counters.route.heartbeat_round_trip_seconds.record(age.as_secs_f64());
                    }
                }
                Flow::Go
            }
            Item::Fence => Flow::Fence,
            Item::Nothing => Flow::Go,
        }
    }

    /// Takes a message in. `size` is the payload's whole length, of which a message over the limit brings only the
    /// beginning.
    fn take_message(&mut self, pass: &Pass, position: Position, message: &Message<'_>, size: usize) -> Flow {
        if left_out(&self.settings.capture, &mut self.filter, message, size) {
            let full = self.builder.filtered(position, pass.read);
            return if full { self.end_batch(pass) } else { Flow::Go };
        }
        let ended =
            if self.builder.would_overflow(message.payload.len()) { self.end_batch(pass) } else { Flow::Go };
        let context = Context { position: &position, received_unix_ms: pass.read.unix_ms };
        let mapping = &mut self.mapping;
        let full = self
            .builder
            .event(position, message, size, pass.read, |sink| mapping.map(message, size, &context, sink));
        if full { self.end_batch(pass) } else { ended }
    }

    /// Takes in a message on a channel with a name over the limit: no condition looks at it, since not all is here.
    fn take_long_named(
        &mut self,
        pass: &Pass,
        position: Position,
        message: &Message<'_>,
        (channel_size, size): (usize, usize),
    ) -> Flow {
        let rejection = Rejection::channel_too_long(channel_size);
        let full = self.builder.event(position, message, size, pass.read, |_| Err(rejection));
        if full { self.end_batch(pass) } else { Flow::Go }
    }

    /// A window opened somewhere. In a window of our own, positions count from its anchor; in a tap they do not.
    fn take_anchor(&mut self, pass: &mut Pass, epoch: Epoch, offset: u64) -> Flow {
        let anchor = epoch.at(0);
        let Some(open) = &mut self.reading.open else { return Flow::Go };
        let place = match &open.tap {
            Some(tap) => tap.numbering.at(offset),
            None => match open.numbers(epoch, pass.read.at) {
                Ok(()) => {
                    open.last = anchor;
                    anchor
                }
                Err(why) => {
                    let last = open.last;
                    if self.successor.border().is_at(anchor) {
                        // All buffered items are before the successor's window, whatever their numbers are.
                        self.border.reached = Some(anchor);
                        self.border.place = Some(Position { ordinal: last.ordinal + 1, ..last });
                    }
                    let text = format!(
                        "a session marker with epoch {} came after one with {}: {why}. tidegate counts no position from \
                         it, and opens a new session. Check who may publish on the control channel",
                        epoch.number, last.epoch.number
                    );
                    self.log(Notice::warn(LogCode::MarkerRejected, text.clone()).of(Side::Source), pass.read);
                    return Flow::Numbered(text);
                }
            },
        };
        let tapped = self.is_replication();
        let word = self.successor.border();
        if !tapped {
            // A successor may read this before it hears that its window is open with this very anchor.
            self.raise_floor(epoch.number + u64::from(!word.is_at(anchor)));
        }
        if word.is_at(anchor) {
            // The border is the batch's end. Whether memory is full is asked at the next message.
            self.flush_builder();
            self.border.reached = Some(anchor);
            self.border.place = Some(place);
            if matches!(word, Border::Open(_)) {
                return Flow::Border(anchor);
            }
        }
        if tapped {
            return Flow::Go;
        }
        self.builder.anchor(anchor, pass.read);
        self.end_batch(pass)
    }

    /// Hands the open batch on.
    fn end_batch(&mut self, pass: &Pass) -> Flow {
        if let Some(batch) = self.builder.take() {
            self.spill.push(batch, &mut self.chain, pass.room);
        }
        if self.spill.full(&self.chain, pass.room).is_none() { Flow::Go } else { Flow::Full }
    }

    /// Ends one read of the source. `reached` is the offset up to which a tap was read.
    pub(in crate::capture) fn end_read(
        &mut self,
        pass: &Pass,
        flow: Flow,
        reached: Option<u64>,
        now: Moment,
    ) {
        if let (Some(offset), Some(open)) = (reached, &mut self.reading.open)
            && let Some(tap) = &mut open.tap
        {
            tap.offset = offset;
        }
        if pass.received > 0 {
            self.counters.route.received.increment(pass.received);
            self.ledger.received(pass.received);
        }
        self.on_read(flow, now);
    }
}
