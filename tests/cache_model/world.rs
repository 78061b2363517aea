//! The states of a world, and the steps that each allows.

use std::fmt;

use super::options::{Act, Cursor, Delay, Fill, Kind, Mishap, SecondPass, World};

/// The number of a commit: 0 is what the database held before. Event n is the news of commit n.
pub(crate) type Version = u8;

/// Commits of the writer. Two are needed for an old version that is written over a newer one.
const COMMITS: Version = 2;

/// The text that makes a value count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tag {
    OfEvent(Version),
    /// Random: nobody else makes the same.
    OfReader(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub(crate) version: Version,
    tag: Option<Tag>,
}

/// The key beside the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Companion {
    LeaseOf(u8),
    Marker(Version),
    Tombstone,
    Tag(Tag),
}

/// How far a route has come: every event up to this number is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Place {
    first: Version,
    second: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cache {
    value: Option<Value>,
    companion: Option<Companion>,
    places: [Place; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reader {
    Begins,
    /// Nothing was there; next it takes a lease, or makes a tag.
    Missed,
    Loads {
        tag: Option<Tag>,
    },
    /// It has read this version, when the routes had applied that much, and is about to fill.
    Fills {
        version: Version,
        applied: [Version; 2],
        tag: Option<Tag>,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    committed: Version,
    announced: Version,
    /// What the replica of the database has.
    replica: Version,
    cache: Cache,
    /// What the cache's replica has of the value.
    view: Option<Value>,
    /// The state that a failover returns to.
    kept: Option<Cache>,
    readers: [Reader; 3],
    /// Whose SET NX may arrive again.
    leased: [bool; 3],
    happened: [bool; 4],
    /// Every route had applied all events up to this one, and that was not lost since.
    applied: Version,
}

/// One step, as a trace names it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Commit(Version),
    Announce(Version),
    ReplicaHas(Version),
    ViewIsRenewed,
    FirstPass { route: usize, event: Version },
    SecondPass { route: usize, event: Version },
    MarkerEnds,
    Hits { reader: usize, version: Version },
    Misses { reader: usize },
    TakesLease { reader: usize, got: bool },
    ReadsTag { reader: usize },
    Reads { reader: usize, version: Version },
    Fills { reader: usize, version: Version, stored: bool },
    IsKept,
    Happens(Mishap),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Commit(version) => write!(f, "the writer commits {version}"),
            Self::Announce(event) => write!(f, "event {event} is in the stream"),
            Self::ReplicaHas(version) => write!(f, "the database's replica has {version}"),
            Self::ViewIsRenewed => write!(f, "the cache's replica catches up"),
            Self::FirstPass { route, event } => write!(f, "route {route} applies event {event}"),
            Self::SecondPass { route, event } => write!(f, "route {route} applies event {event} again"),
            Self::MarkerEnds => write!(f, "the marker's life ends"),
            Self::Hits { reader, version } => write!(f, "reader {reader} gets {version} from the cache"),
            Self::Misses { reader } => write!(f, "reader {reader} misses"),
            Self::TakesLease { reader, got: true } => write!(f, "reader {reader} takes the lease"),
            Self::TakesLease { reader, .. } => write!(f, "reader {reader} gets no lease"),
            Self::ReadsTag { reader } => write!(f, "reader {reader} knows the tag"),
            Self::Reads { reader, version } => write!(f, "reader {reader} reads {version} from the database"),
            Self::Fills { reader, version, stored: true } => write!(f, "reader {reader} fills {version}"),
            Self::Fills { reader, version, .. } => write!(f, "reader {reader} may not fill {version}"),
            Self::IsKept => write!(f, "the cache's state is kept"),
            Self::Happens(mishap) => write!(f, "mishap: {mishap:?}"),
        }
    }
}

/// What a state leads to.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// What happens sooner or later. Where there is none, nothing can move any more.
    pub(crate) steps: Vec<(Step, State)>,
    /// What may happen or not.
    pub(crate) mishaps: Vec<(Step, State)>,
}

impl State {
    /// The cache is empty, or has what the database has.
    pub(crate) fn beginnings() -> [Self; 2] {
        [None, Some(Value { version: 0, tag: None })].map(|value| Self {
            committed: 0,
            announced: 0,
            replica: 0,
            cache: Cache { value, companion: None, places: [Place::default(); 2] },
            view: value,
            kept: None,
            readers: [Reader::Begins; 3],
            leased: [false; 3],
            happened: [false; 4],
            applied: 0,
        })
    }

    /// Whether the cache has no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.cache.value.is_none()
    }

    /// The version that a reader would get now.
    pub(crate) fn visible(&self, world: &World) -> Option<Version> {
        visible(world, self.cache.value, self.cache.companion)
    }

    pub(crate) fn is_stale(&self, world: &World) -> bool {
        self.visible(world).is_some_and(|version| version < self.committed)
    }

    /// Whether this version is older than an event that was applied.
    pub(crate) fn has_applied_more_than(&self, version: Version) -> bool {
        version < self.applied
    }

    /// What tells one end from another.
    pub(crate) fn end(&self, world: &World) -> impl Eq + std::hash::Hash + use<> {
        (self.visible(world), self.cache.companion.is_some(), self.cache.places)
    }

    pub(crate) fn moves(&self, world: &World) -> Moves {
        let mut moves = Moves::default();
        let steps = &mut moves.steps;
        self.database(world, steps);
        for route in 0..world.routes.len() {
            self.route(world, route, steps);
        }
        for reader in 0..world.readers.len() {
            self.reader(world, reader, steps);
        }
        self.mishaps(world, &mut moves.mishaps);
        moves
    }

    fn database(&self, world: &World, steps: &mut Vec<(Step, Self)>) {
        if self.committed < COMMITS && !(world.announced_early && self.announced == self.committed) {
            let next = Self { committed: self.committed + 1, ..*self };
            steps.push((Step::Commit(next.committed), next));
        }
        if self.announced < (self.committed + u8::from(world.announced_early)).min(COMMITS) {
            let next = Self { announced: self.announced + 1, ..*self };
            steps.push((Step::Announce(next.announced), next));
        }
        if world.has_replica() && self.replica < self.committed {
            let next = Self { replica: self.replica + 1, ..*self };
            steps.push((Step::ReplicaHas(next.replica), next));
        }
        if world.cache_replica && self.view != self.cache.value {
            steps.push((Step::ViewIsRenewed, Self { view: self.cache.value, ..*self }));
        }
    }

    fn route(&self, world: &World, route: usize, steps: &mut Vec<(Step, Self)>) {
        let act = world.routes[route];
        let place = self.cache.places[route];
        if place.first < self.announced {
            let event = place.first + 1;
            let mut next = *self;
            next.cache.apply(act, event);
            next.cache.places[route].first = event;
            next.applied = next.applied.max(next.cache.applied_by_all(world));
            steps.push((Step::FirstPass { route, event }, next));
        }
        let event = place.second + 1;
        if world.second_pass != SecondPass::Never && event <= place.first && self.is_due(world, route, event)
        {
            let mut next = *self;
            let is_older = self.cache.value.is_some_and(|value| value.version < event);
            let [value, lease] = match world.second_pass {
                SecondPass::Never => [false, false],
                SecondPass::OfTheValue => [true, false],
                SecondPass::OfValueAndLease => [true, true],
                SecondPass::OfAnOlderValueAndLease => [is_older, true],
                SecondPass::OfAnOlderValue => [is_older, false],
                SecondPass::OfTheLease => [false, true],
            };
            next.cache.value = next.cache.value.filter(|_| !value);
            next.cache.companion = next.cache.companion.filter(|_| !lease);
            next.cache.places[route].second = event;
            steps.push((Step::SecondPass { route, event }, next));
        }
        if matches!(self.cache.companion, Some(Companion::Marker(held)) if self.replica >= held) && route == 0
        {
            let mut next = *self;
            next.cache.companion = None;
            steps.push((Step::MarkerEnds, next));
        }
    }

    /// Whether the second pass of an event may come now.
    fn is_due(&self, world: &World, route: usize, event: Version) -> bool {
        let filling = self.readers.iter().filter_map(|reader| match *reader {
            Reader::Fills { version, applied, .. } => Some((version, applied[route])),
            _ => None,
        });
        let over = match world.delay {
            Delay::Any => true,
            Delay::OutlastsLoads => filling.into_iter().all(|(_, applied)| applied >= event),
            Delay::OutlastsLagAndLoad => filling.into_iter().all(|(version, _)| version >= event),
        };
        over && self.committed >= event && (!world.has_replica() || self.replica >= event)
    }

    fn reader(&self, world: &World, reader: usize, steps: &mut Vec<(Step, Self)>) {
        let Kind { fill, replica } = world.readers[reader];
        let number = u8::try_from(reader).unwrap();
        let mut next = *self;
        let step = match self.readers[reader] {
            Reader::Done => return,
            Reader::Begins => {
                let value = if world.cache_replica { self.view } else { self.cache.value };
                if let Some(version) = visible(world, value, self.cache.companion) {
                    next.readers[reader] = Reader::Done;
                    Step::Hits { reader, version }
                } else {
                    next.readers[reader] = match fill {
                        Fill::Lease | Fill::LeaseNewer | Fill::Tag => Reader::Missed,
                        Fill::Plain | Fill::Newer | Fill::UnlessTombstone => Reader::Loads { tag: None },
                    };
                    Step::Misses { reader }
                }
            }
            Reader::Missed if fill == Fill::Tag => {
                // SET NX and GET.
                let companion = *next.cache.companion.get_or_insert(Companion::Tag(Tag::OfReader(number)));
                let Companion::Tag(tag) = companion else {
                    panic!("no tag in a world of tags: {companion:?}")
                };
                next.readers[reader] = Reader::Loads { tag: Some(tag) };
                Step::ReadsTag { reader }
            }
            Reader::Missed => {
                let got = self.cache.companion.is_none();
                // Who gets none loads too, but fills nothing.
                next.readers[reader] = if got { Reader::Loads { tag: None } } else { Reader::Done };
                if got {
                    next.cache.companion = Some(Companion::LeaseOf(number));
                    next.leased[reader] = world.mishaps.contains(&Mishap::LeaseIsSetAgain);
                }
                Step::TakesLease { reader, got }
            }
            Reader::Loads { tag } => {
                let version = if replica { self.replica } else { self.committed };
                let applied = match world.delay {
                    Delay::OutlastsLoads => self.cache.places.map(|place| place.first),
                    // Nobody asks, and states that differ in nothing else are one.
                    Delay::Any | Delay::OutlastsLagAndLoad => [0; 2],
                };
                next.readers[reader] = Reader::Fills { version, applied, tag };
                Step::Reads { reader, version }
            }
            Reader::Fills { version, tag, .. } => {
                next.readers[reader] = Reader::Done;
                let stored = next.cache.fill(fill, number, Value { version, tag });
                Step::Fills { reader, version, stored }
            }
        };
        steps.push((step, next));
    }

    fn mishaps(&self, world: &World, steps: &mut Vec<(Step, Self)>) {
        for (at, &mishap) in world.mishaps.iter().enumerate().filter(|&(at, _)| !self.happened[at]) {
            let mut next = *self;
            next.happened[at] = true;
            let nowhere = [Place::default(); 2];
            match mishap {
                Mishap::Failover => match self.kept {
                    None => {
                        steps.push((Step::IsKept, Self { kept: Some(self.cache), ..*self }));
                        continue;
                    }
                    Some(kept) => {
                        next.cache = kept;
                        next.kept = None;
                    }
                },
                Mishap::Flush => next.cache = Cache { value: None, companion: None, places: nowhere },
                Mishap::FlushThenTheEnd => {
                    let end = Place { first: self.announced, second: self.announced };
                    next.cache = Cache { value: None, companion: None, places: [end; 2] };
                }
                Mishap::LosesTheValue => next.cache.value = None,
                Mishap::LosesTheCompanion => next.cache.companion = None,
                Mishap::LosesTheCursor => next.cache.places = nowhere,
                Mishap::LeaseIsSetAgain => {
                    for reader in 0..world.readers.len() {
                        if self.leased[reader] && self.cache.companion.is_none() {
                            let mut next = next;
                            next.cache.companion = Some(Companion::LeaseOf(u8::try_from(reader).unwrap()));
                            steps.push((Step::Happens(mishap), next));
                        }
                    }
                    continue;
                }
            }
            if world.cursor == Cursor::BesideTheStream {
                next.cache.places = self.cache.places;
            }
            next.forget(world, mishap);
            steps.push((Step::Happens(mishap), next));
        }
    }

    /// What was applied after the restored state will be applied once more: the delay of its second pass begins then.
    fn forget(&mut self, world: &World, mishap: Mishap) {
        let places = self.cache.places;
        for reader in &mut self.readers {
            if let Reader::Fills { applied, .. } = reader {
                *applied = [0, 1].map(|route| applied[route].min(places[route].first));
            }
        }
        if mishap == Mishap::Failover {
            self.applied = self.applied.min(self.cache.applied_by_all(world));
        }
    }
}

impl Cache {
    fn apply(&mut self, act: Act, event: Version) {
        let marker = matches!(self.companion, Some(Companion::Marker(_)));
        match act {
            Act::Remove => (self.value, self.companion) = (None, None),
            Act::RemoveButKeepMarkers => {
                self.value = None;
                self.companion = self.companion.filter(|_| marker);
            }
            Act::Hold => (self.value, self.companion) = (None, Some(Companion::Marker(event))),
            Act::Tombstone => (self.value, self.companion) = (None, Some(Companion::Tombstone)),
            Act::TagById => self.companion = Some(Companion::Tag(Tag::OfEvent(event))),
            Act::TagByHigherId => match self.companion {
                Some(Companion::Tag(Tag::OfEvent(newer))) if newer > event => {}
                _ => self.companion = Some(Companion::Tag(Tag::OfEvent(event))),
            },
            Act::RemoveTag => self.companion = None,
            Act::Set(rules) => {
                if rules.removes_the_lease {
                    self.companion = None;
                }
                let wanted = match self.value {
                    None => !rules.only_where_a_value_is,
                    Some(value) => !rules.compares_versions || event > value.version,
                };
                if wanted {
                    self.value = Some(Value { version: event, tag: None });
                }
            }
        }
    }

    /// Whether the value was stored.
    fn fill(&mut self, fill: Fill, reader: u8, value: Value) -> bool {
        let newer = self.value.is_none_or(|there| value.version > there.version);
        let leased = self.companion == Some(Companion::LeaseOf(reader));
        let stored = match fill {
            Fill::Plain | Fill::Tag => true,
            Fill::Newer => newer,
            Fill::Lease => leased,
            Fill::LeaseNewer => leased && newer,
            Fill::UnlessTombstone => self.companion != Some(Companion::Tombstone),
        };
        if stored {
            self.value = Some(value);
        }
        if leased {
            self.companion = None;
        }
        stored
    }

    fn applied_by_all(&self, world: &World) -> Version {
        self.places.iter().take(world.routes.len()).map(|place| place.first).min().unwrap_or(0)
    }
}

fn visible(world: &World, value: Option<Value>, companion: Option<Companion>) -> Option<Version> {
    let value = value?;
    let counts = match companion {
        _ if world.readers.iter().all(|reader| reader.fill != Fill::Tag) => true,
        Some(Companion::Tag(tag)) => value.tag == Some(tag),
        _ => false,
    };
    counts.then_some(value.version)
}
