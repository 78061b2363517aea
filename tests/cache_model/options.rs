//! What a world has: its readers and routes, and what may go wrong.

/// How a reader brings what it loaded into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// SET.
    Plain,
    /// SET, only if the key holds nothing newer; the key's life is the step's own.
    Newer,
    /// SET NX of a lease before the load, and the fill only while the lease stands there.
    Lease,
    /// The lease, and of two versions the newer one.
    LeaseNewer,
    /// The value names the text that the tag's key held before the load, and counts only while that key still holds it.
    Tag,
    /// Not while a tombstone stands there.
    UnlessTombstone,
}

/// One reader: it reads the cache once, and loads and fills if there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) fill: Fill,
    /// It loads from a replica of the database, which lags.
    pub(crate) replica: bool,
}

/// What a route does to the cache when it applies an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Removes the value, and the lease beside it.
    Remove,
    /// Removes the value, and beside it a lease but no marker of a route that holds.
    RemoveButKeepMarkers,
    /// Removes the value and puts a marker in the lease's place, so that nobody gets a lease while it stands there.
    Hold,
    /// Removes the value and puts a tombstone beside it.
    Tombstone,
    /// Makes the tag's text the number of the event.
    TagById,
    /// The same, unless the number that stands there is higher.
    TagByHigherId,
    /// Removes the tag's key; the next reader makes up a text that was never used.
    RemoveTag,
    /// Writes the event's version into the cache.
    Set(Set),
}

/// The rules of write-through. All three are meant to be kept; a world without one is a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) compares_versions: bool,
    pub(crate) removes_the_lease: bool,
    pub(crate) only_where_a_value_is: bool,
}

/// What is done once more, some time after an event was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondPass {
    Never,
    OfTheValue,
    OfValueAndLease,
    /// Of the lease, and of a value that is older than the event. This is what a route does that writes.
    OfAnOlderValueAndLease,
    /// Mutants of it.
    OfAnOlderValue,
    OfTheLease,
}

/// Which loads are certainly over when the second pass of an event comes. Replicas of the database have the event's commit
/// by then in any case, and so has the database itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delay {
    /// None is sure to be: a load may take for ever.
    Any,
    /// Those that read before the event was applied: the delay is longer than a load.
    OutlastsLoads,
    /// Also those that read from a replica which lacked the commit: longer than lag and load together.
    OutlastsLagAndLoad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// A key of the cache: lost and restored together with what it speaks of.
    OnTheCache,
    /// A key beside the stream, on another server.
    BesideTheStream,
}

/// What may go wrong, once, at any moment or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The cache returns to an earlier state of its own: a failover, or a restart from an older dump.
    Failover,
    /// The cache is emptied, and the route starts over at the stream's first entry.
    Flush,
    /// The cache is emptied, and the route continues at the stream's end.
    FlushThenTheEnd,
    /// The key is evicted, or its life ends.
    LosesTheValue,
    /// The same of the lease, marker, tombstone or tag.
    LosesTheCompanion,
    /// The same of the cursor: the route starts over at the first entry.
    LosesTheCursor,
    /// A reader's SET NX arrives a second time, however late.
    LeaseIsSetAgain,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) readers: &'static [Kind],
    pub(crate) routes: &'static [Act],
    pub(crate) second_pass: SecondPass,
    pub(crate) delay: Delay,
    pub(crate) cursor: Cursor,
    /// Readers read the cache from a replica of it; they fill at its master.
    pub(crate) cache_replica: bool,
    /// The writer publishes its events before it commits.
    pub(crate) announced_early: bool,
    pub(crate) mishaps: &'static [Mishap],
}

impl World {
    /// Whether anybody loads from a replica of the database.
    pub(crate) fn has_replica(&self) -> bool {
        self.readers.iter().any(|reader| reader.replica)
    }
}
