//! A batch in two, for a destination that has no room for all of it at once.

use super::digits::decimal;
use super::{
    Batch, ITEM_POSITION_WIDTH, RUN_WIDTH, ReadTime, Run, TARGET_ANCHOR, TARGET_DEAD_LETTER, TARGET_FILTERED,
};
use crate::capture::batch::gap::Joint;
use crate::position::Position;
use crate::rt::Moment;

/// An item as it is encoded.
struct EncodedItem<'a> {
    position: Position,
    run: Run,
    arguments: &'a [u8],
}

impl Batch {
    /// Two batches with its items in order. `None` if it has one item, or if its parts do not fit together, as in a
    /// forged record of the spool.
    pub(in crate::capture) fn halves(&self) -> Option<(Self, Self)> {
        let items = self.encoded_items()?;
        let (first, second) = items.split_at(items.len() / 2);
        let border = first.last()?.position;
        let halves = (self.part(self.joint.clone(), first)?, self.part(Joint::Follows(border), second)?);
        let sum = |count: fn(&Self) -> u64| count(&halves.0).checked_add(count(&halves.1));
        let counts: [fn(&Self) -> u64; 3] =
            [|batch| batch.events, |batch| batch.rejected, |batch| batch.filtered];
        let is_whole = (halves.0.first, halves.1.last) == (self.first, self.last)
            && counts.iter().all(|count| sum(*count) == Some(count(self)));
        is_whole.then_some(halves)
    }

    fn encoded_items(&self) -> Option<Vec<EncodedItem<'_>>> {
        if self.positions.len() != self.items.checked_mul(ITEM_POSITION_WIDTH)? {
            return None;
        }
        let mut positions = self.items_at();
        let mut rest = self.body.as_slice();
        let mut items = Vec::with_capacity(self.items);
        for run in self.runs.chunks_exact(RUN_WIDTH).map(Run::parse) {
            for _ in 0..run.items {
                let arguments = take_arguments(&mut rest, run.arguments)?;
                items.push(EncodedItem { position: positions.next()??, run, arguments });
            }
        }
        let ascends = items.is_sorted_by(|before, after| before.position < after.position);
        (rest.is_empty() && items.len() == self.items && ascends).then_some(items)
    }

    fn part(&self, joint: Joint, items: &[EncodedItem<'_>]) -> Option<Self> {
        let read = ReadTime {
            moment: Moment { at: self.opened, unix_ms: self.opened_unix_ms },
            complete_unix_ms: self.complete_unix_ms,
        };
        let mut part = Self::new(joint, items.first()?.position, read, self.options.clone());
        part.body.reserve(items.iter().map(|item| item.arguments.len()).sum());
        // The place of each stream in the part, by its place in the whole.
        let mut targets = vec![None; self.streams.len()];
        for item in items {
            let target = match item.run.target {
                TARGET_ANCHOR => TARGET_ANCHOR,
                other => {
                    part.events += 1;
                    part.rejected += u64::from(other == TARGET_DEAD_LETTER);
                    part.filtered += u64::from(other == TARGET_FILTERED);
                    match other {
                        TARGET_DEAD_LETTER | TARGET_FILTERED => other,
                        stream => {
                            let at = stream - 1;
                            let name = self.names.get(self.streams.get(at)?.clone())?;
                            *targets.get_mut(at)?.get_or_insert_with(|| part.add_stream(name) + 1)
                        }
                    }
                }
            };
            part.body.extend_from_slice(item.arguments);
            part.push(item.position, target, item.run.arguments);
        }
        part.end_run();
        Some(part)
    }
}

/// Takes this many RESP arguments from the beginning.
fn take_arguments<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let whole = *rest;
    for _ in 0..count {
        let line = memchr::memchr(b'\n', rest)?;
        let digits = rest[..line].strip_prefix(b"$")?.strip_suffix(b"\r")?;
        if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let length = usize::try_from(decimal(digits)).ok()?;
        *rest = rest.get(line + 1..)?.get(length..)?.strip_prefix(b"\r\n")?;
    }
    Some(&whole[..whole.len() - rest.len()])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::capture::batch::AppendOptions;
    use crate::capture::batch::builder::Builder;
    use crate::capture::mapping::FieldSink as _;
    use crate::position::{AnchorId, Epoch};
    use crate::server::resp::Message;

    fn batch(options: &Arc<AppendOptions>) -> Batch {
        let [first, second] = [1, 2].map(|number| Epoch { number, anchor: AnchorId::random() });
        let read = Moment { at: Instant::now(), unix_ms: 9 };
        let mut builder = Builder::new(options.clone());
        builder.open_window(first.at(0), Joint::Start, read);
        let message = Message { channel: b"c", pattern: None, payload: b"p" };
        for (ordinal, stream) in [(1, "a"), (2, "b"), (4, "a")] {
            builder.event(first.at(ordinal), &message, 1, read, |sink| {
                sink.stream(stream.as_bytes());
                sink.field(b"number", ordinal.to_string().as_bytes());
                Ok(())
            });
        }
        builder.filtered(first.at(5), read);
        builder.anchor(second.at(0), read);
        builder.event(second.at(1), &message, 1, read, |sink| {
            sink.stream(b"b");
            sink.field(b"other", b"\r\n$1\r\n");
            Ok(())
        });
        builder.take().unwrap()
    }

    /// Position, stream, number of arguments and arguments.
    type FlatItem = (Position, Option<Vec<u8>>, usize, Vec<u8>);

    fn flat(batch: &Batch) -> Vec<FlatItem> {
        let items = batch.encoded_items().unwrap();
        let stream = |target: usize| batch.streams().nth(target.checked_sub(1)?).map(<[u8]>::to_vec);
        items
            .iter()
            .map(|item| (item.position, stream(item.run.target), item.run.arguments, item.arguments.to_vec()))
            .collect()
    }

    #[test]
    fn halves_hold_the_same_items_down_to_single_ones() {
        let whole = batch(&Arc::default());
        let mut parts = vec![whole];
        let expected = flat(&parts[0]);
        assert_eq!(expected.len(), 7);
        while let Some(at) = parts.iter().position(|part| part.items() > 1) {
            let (first, second) = parts[at].halves().unwrap();
            assert_eq!(second.joint, Joint::Follows(first.last));
            parts.splice(at..=at, [first, second]);
            assert_eq!(parts.iter().flat_map(flat).collect::<Vec<_>>(), expected);
            assert_eq!(parts.iter().map(|part| part.events).sum::<u64>(), 5);
            assert_eq!(parts.iter().map(|part| part.filtered).sum::<u64>(), 1);
        }
        assert_eq!(parts.len(), 7);
        assert_eq!(parts[0].joint, Joint::Start);
        assert!(parts.iter().all(|part| part.streams().len() <= 1 && part.halves().is_none()));
    }

    #[test]
    fn what_does_not_fit_together_has_no_halves() {
        let mut forged = batch(&Arc::default());
        forged.body.truncate(forged.body.len() - 1);
        assert!(forged.halves().is_none());
        let mut forged = batch(&Arc::default());
        forged.events += 1;
        assert!(forged.halves().is_none());
        let mut forged = batch(&Arc::default());
        forged.items += 1;
        assert!(forged.halves().is_none());
    }
}
