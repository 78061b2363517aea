//! Why a cache that an `[invalidate]` route clears becomes right, and what is needed for that: every interleaving of a small
//! world. No server takes part.
//!
//! # The world
//!
//! There is one key. A **writer** commits version 1 and then version 2 to a database that holds version 0, and puts an event
//! into a stream after each commit. A **route** applies the events in order: its first pass removes the key from the cache,
//! or does whatever else the world says. If the world has a second pass, the route does it once more, later. Two or three
//! **readers** read the cache once. If the value is not there, a reader reads the database, and then fills the cache. One or
//! more **mishaps** may happen, each once, at any moment or never.
//!
//! Each of these is cut into steps that a server does at once, such as one command or one script. Any step may come next, so
//! a reader may stop for as long as it likes between two of its steps. `explore` visits every state that can be reached in
//! this way; it is deterministic.
//!
//! # What is wrong
//!
//! - A **wrong end**: nothing can move any more, and the cache has an older version than the database. It stays until the
//!   value's time to live ends, which the model leaves out on purpose.
//! - A **stale read**: a reader gets a version from the cache that is older than an event which every route had applied.
//!   After a failover only what the restored cache knows counts as applied.
//! - **Older over newer**: a version in the cache is replaced by an older one, by a reader or by a route that writes.
//! - **Right and removed**: the second pass removes a version that is not older than its event. Of a route that removes it is
//!   no fault.
//!
//! # Time
//!
//! There is no clock. What a delay is good for is said as an order of steps:
//!
//! - The second pass of an event comes once the database's replica has the commit: the delay is longer than replicas lag. If
//!   the world announces events before their commits, the commit is over by then too.
//! - With `OutlastsLoads` it also comes after the fill of every reader that read the database before the first pass.
//! - With `OutlastsLagAndLoad` it also comes after the fill of every reader that read an older version from a replica.
//! - A marker of a route that holds stays at least until the database's replica has what the marker was made for.
//!
//! A replica of the cache and one of the database are states of their own, which catch up at any moment. A repeated or late
//! script of the route needs no step: it finds its place moved and does nothing. Nor does a reader that dies: it is one that
//! stops for ever, and its lease is evicted or ends.
//!
//! # Mutants
//!
//! A model in which nothing can go wrong shows nothing. Beside each world without a fault stands one that lacks a rule, and
//! has the fault.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

#[path = "cache_model/options.rs"]
mod options;
#[path = "cache_model/search.rs"]
mod search;
#[path = "cache_model/world.rs"]
mod world;

use options::{Act, Cursor, Delay, Fill, Kind, Mishap, SecondPass, Set, World};
use search::{Trace, Verdict, explore};

const fn reader(fill: Fill) -> Kind {
    Kind { fill, replica: false }
}

const fn of_a_replica(fill: Fill) -> Kind {
    Kind { fill, replica: true }
}

const PLAIN: Kind = reader(Fill::Plain);
const LEASE: Kind = reader(Fill::Lease);
const NEWER: Kind = reader(Fill::Newer);
const LEASE_NEWER: Kind = reader(Fill::LeaseNewer);
const TAG: Kind = reader(Fill::Tag);
const UNLESS_TOMBSTONE: Kind = reader(Fill::UnlessTombstone);
const PLAIN_OF_A_REPLICA: Kind = of_a_replica(Fill::Plain);
const LEASE_OF_A_REPLICA: Kind = of_a_replica(Fill::Lease);
const LEASE_NEWER_OF_A_REPLICA: Kind = of_a_replica(Fill::LeaseNewer);

/// Two readers with leases, and nothing that goes wrong or is done a second time.
const LEASES: World = World {
    readers: &[LEASE, LEASE],
    routes: &[Act::Remove],
    second_pass: SecondPass::Never,
    delay: Delay::Any,
    cursor: Cursor::OnTheCache,
    cache_replica: false,
    announced_early: false,
    mishaps: &[],
};

/// The same with readers that fill as they like.
const PLAINS: World = World { readers: &[PLAIN, PLAIN], ..LEASES };

/// What a route does by default.
const TWICE: World = World { second_pass: SecondPass::OfValueAndLease, ..LEASES };

/// The default, for readers that fill as they like and never for longer than the delay.
const PLAINS_TWICE: World = World { readers: &[PLAIN, PLAIN], delay: Delay::OutlastsLoads, ..TWICE };

/// The route writes what changed.
const WRITES: World = World { readers: &[LEASE_NEWER, LEASE_NEWER], routes: &[Act::Set(RULES)], ..LEASES };
const RULES: Set = Set { compares_versions: true, removes_the_lease: true, only_where_a_value_is: true };

/// What a cache may do to its keys.
const EVERY_MISHAP: [Mishap; 5] = [
    Mishap::Failover,
    Mishap::Flush,
    Mishap::LosesTheValue,
    Mishap::LosesTheCompanion,
    Mishap::LosesTheCursor,
];

fn seen(world: &World) -> Verdict {
    let verdict = explore(world);
    let (wrong, ends, states) = (verdict.wrong_ends, verdict.ends, verdict.states);
    println!("{wrong} wrong of {ends} ends, {states} states: {world:?}");
    assert!(ends > 0, "it never comes to rest: {world:?}");
    verdict
}

#[track_caller]
fn absent(what: &str, found: Option<Trace>, world: &World) {
    if let Some(trace) = found {
        panic!("{what}: {trace}\n{world:?}");
    }
}

/// Nothing wrong stays.
#[track_caller]
fn ends_right(world: &World) {
    absent("a wrong end", seen(world).wrong_end, world);
}

/// Nothing wrong stays, and nobody reads what an applied event made old.
#[track_caller]
fn is_never_stale(world: &World) {
    let verdict = seen(world);
    absent("a wrong end", verdict.wrong_end, world);
    absent("a stale read", verdict.stale_read, world);
}

/// The same, and no version takes the place of a newer one.
#[track_caller]
fn never_goes_back(world: &World) {
    let verdict = seen(world);
    absent("a wrong end", verdict.wrong_end, world);
    absent("a stale read", verdict.stale_read, world);
    absent("older over newer", verdict.older_over_newer, world);
}

/// The fault that must be there, as the shortest way to it.
#[track_caller]
fn fault(found: Option<Trace>, world: &World) -> String {
    let trace = found.unwrap_or_else(|| panic!("this world lacks a rule, and has no fault: {world:?}"));
    trace.to_string()
}

#[track_caller]
fn ends_wrong(world: &World) -> String {
    fault(seen(world).wrong_end, world)
}

/// With each mishap alone, and then with none.
fn with_each(mishaps: &'static [Mishap], world: World, check: impl Fn(&World)) {
    for mishap in mishaps {
        check(&World { mishaps: std::slice::from_ref(mishap), ..world });
    }
    check(&world);
}

#[test]
fn a_plain_fill_leaves_an_old_version_though_nothing_fails() {
    ends_wrong(&PLAINS);
    let race = "nothing is cached; reader 0 misses; reader 0 reads 0 from the database; the writer commits 1; \
                event 1 is in the stream; route 0 applies event 1; reader 0 fills 0; reader 1 gets 0 from the cache";
    assert_eq!(fault(seen(&PLAINS).stale_read, &PLAINS), race);
}

#[test]
fn with_leases_nothing_is_stale_whatever_the_cache_does() {
    with_each(&EVERY_MISHAP, LEASES, is_never_stale);
    with_each(&EVERY_MISHAP, World { readers: &[LEASE; 3], ..LEASES }, is_never_stale);
    // Two mishaps and more, in any order.
    is_never_stale(&World {
        mishaps: &[Mishap::Failover, Mishap::LosesTheCompanion, Mishap::LosesTheCursor],
        ..LEASES
    });
    is_never_stale(&World {
        mishaps: &[Mishap::Flush, Mishap::LosesTheCompanion, Mishap::Failover],
        ..LEASES
    });
}

#[test]
fn two_routes_on_one_key_do_not_disturb_each_other() {
    with_each(&EVERY_MISHAP, World { routes: &[Act::Remove, Act::Remove], ..LEASES }, is_never_stale);
}

#[test]
fn a_cursor_beside_the_stream_loses_what_the_cache_lost() {
    ends_wrong(&World { mishaps: &[Mishap::Failover], cursor: Cursor::BesideTheStream, ..LEASES });
    // A second pass does not help: it is over as well.
    ends_wrong(&World { mishaps: &[Mishap::Failover], cursor: Cursor::BesideTheStream, ..TWICE });
}

/// They read what was right a while ago, and fill at the master.
#[test]
fn readers_of_a_replica_of_the_cache_need_leases_as_well() {
    ends_right(&World { cache_replica: true, ..LEASES });
    ends_wrong(&World { cache_replica: true, ..PLAINS });
    ends_right(&World { cache_replica: true, ..PLAINS_TWICE });
}

#[test]
fn a_second_pass_of_value_and_lease_makes_up_for_a_replica_of_the_database() {
    let world = World { readers: &[LEASE_OF_A_REPLICA, LEASE], ..LEASES };
    ends_wrong(&world);
    ends_wrong(&World { second_pass: SecondPass::OfTheValue, ..world });
    let twice = World { second_pass: SecondPass::OfValueAndLease, ..world };
    with_each(&EVERY_MISHAP, twice, ends_right);
    ends_right(&World { readers: &[LEASE_OF_A_REPLICA; 3], ..twice });
    ends_right(&World { mishaps: &[Mishap::Failover, Mishap::LosesTheCursor], ..twice });
}

#[test]
fn a_second_pass_makes_up_for_plain_fills_that_are_shorter_than_its_delay() {
    with_each(&EVERY_MISHAP, PLAINS_TWICE, ends_right);
    ends_right(&World { mishaps: &[Mishap::Failover, Mishap::LosesTheCursor], ..PLAINS_TWICE });
    ends_wrong(&World { delay: Delay::Any, ..PLAINS_TWICE });
}

/// Lag and load add up: it may begin late in the lag, and fill after a delay that is longer than either.
#[test]
fn a_plain_fill_from_a_replica_needs_a_delay_of_lag_and_load_together() {
    let world = World { readers: &[PLAIN_OF_A_REPLICA, PLAIN_OF_A_REPLICA], ..PLAINS_TWICE };
    ends_wrong(&world);
    with_each(&EVERY_MISHAP, World { delay: Delay::OutlastsLagAndLoad, ..world }, ends_right);
}

#[test]
fn readers_may_change_one_at_a_time() {
    let world = World { readers: &[PLAIN, LEASE, LEASE_OF_A_REPLICA], ..PLAINS_TWICE };
    ends_right(&world);
    ends_wrong(&World { second_pass: SecondPass::Never, ..world });
}

#[test]
fn an_event_that_comes_before_its_commit_needs_the_second_pass() {
    ends_wrong(&World { announced_early: true, ..LEASES });
    with_each(&EVERY_MISHAP, World { announced_early: true, ..TWICE }, ends_right);
}

/// A client library may send a command again whose answer it did not get. The first may still be under way, and bring back
/// a lease that the route removed. The second pass makes up for it, if neither takes longer than the delay.
#[test]
fn a_lease_that_is_set_again_late_needs_the_second_pass() {
    let world = World { mishaps: &[Mishap::LeaseIsSetAgain], ..LEASES };
    ends_wrong(&world);
    let twice = World { second_pass: SecondPass::OfValueAndLease, ..world };
    ends_right(&World { delay: Delay::OutlastsLoads, ..twice });
    ends_wrong(&twice);
}

#[test]
fn after_a_flush_the_route_must_start_over() {
    ends_wrong(&World { mishaps: &[Mishap::FlushThenTheEnd], ..PLAINS_TWICE });
    ends_right(&World { mishaps: &[Mishap::Flush], ..PLAINS_TWICE });
    // Leases do not need it, since a flush takes them along.
    ends_right(&World { mishaps: &[Mishap::FlushThenTheEnd], ..LEASES });
}

/// Instead of a second pass, a marker keeps everybody from a lease while replicas lag.
#[test]
fn a_marker_that_holds_is_undone_by_another_route_and_by_a_flush() {
    let holds = World { readers: &[LEASE_OF_A_REPLICA, LEASE], routes: &[Act::Hold], ..LEASES };
    ends_right(&holds);
    ends_wrong(&World { routes: &[Act::Hold, Act::Remove], ..holds });
    ends_right(&World { routes: &[Act::Hold, Act::RemoveButKeepMarkers], ..holds });
    ends_wrong(&World { mishaps: &[Mishap::FlushThenTheEnd], ..holds });
    ends_right(&World { mishaps: &[Mishap::Flush], ..holds });
}

/// A lease that is lost refuses a fill, a tombstone that is lost lets one through.
#[test]
fn a_tombstone_fails_open() {
    let world = World { readers: &[UNLESS_TOMBSTONE; 2], routes: &[Act::Tombstone], ..LEASES };
    is_never_stale(&world);
    ends_wrong(&World { mishaps: &[Mishap::LosesTheCompanion], ..world });
}

#[test]
fn a_tag_must_have_a_text_that_was_never_used() {
    let lost: &[Mishap] = &[Mishap::LosesTheCursor, Mishap::LosesTheCompanion];
    let reused = World { readers: &[TAG; 2], routes: &[Act::TagById], ..LEASES };
    is_never_stale(&reused);
    let replayed = World { mishaps: &lost[..1], ..reused };
    fault(seen(&replayed).stale_read, &replayed);
    // Only upwards is not enough, once the number that it is compared with is lost too.
    let higher = World { routes: &[Act::TagByHigherId], ..replayed };
    is_never_stale(&higher);
    let lost_too = World { mishaps: lost, ..higher };
    fault(seen(&lost_too).stale_read, &lost_too);

    let random = World { routes: &[Act::RemoveTag], ..reused };
    is_never_stale(&World { mishaps: lost, ..random });
    is_never_stale(&World { readers: &[TAG; 3], ..random });
    with_each(&EVERY_MISHAP, random, is_never_stale);
}

#[test]
fn write_through_never_goes_back() {
    with_each(&EVERY_MISHAP, WRITES, never_goes_back);
    never_goes_back(&World { readers: &[LEASE_NEWER; 3], ..WRITES });
    never_goes_back(&World { mishaps: &[Mishap::LosesTheCursor, Mishap::LosesTheValue], ..WRITES });
    with_each(&EVERY_MISHAP, World { routes: &[Act::Set(RULES); 2], ..WRITES }, never_goes_back);
    never_goes_back(&World { routes: &[Act::Set(RULES), Act::Remove], ..WRITES });
}

/// A lease is proof enough: whatever came meanwhile took it away.
#[test]
fn write_through_needs_no_comparison_by_readers_that_all_hold_leases() {
    with_each(&EVERY_MISHAP, World { readers: &[LEASE; 2], ..WRITES }, never_goes_back);
    never_goes_back(&World { readers: &[LEASE; 3], mishaps: &[Mishap::LosesTheCompanion], ..WRITES });
    // Beside one that holds none, it is not.
    let mixed = World { readers: &[LEASE, NEWER], ..WRITES };
    fault(seen(&mixed).older_over_newer, &mixed);
    absent(
        "older over newer",
        seen(&World { readers: &[LEASE_NEWER, NEWER], ..mixed }).older_over_newer,
        &mixed,
    );
}

#[test]
fn write_through_needs_the_second_pass_as_well() {
    let replica = World { readers: &[LEASE_NEWER_OF_A_REPLICA, LEASE_NEWER], ..WRITES };
    ends_wrong(&replica);
    let twice = World { second_pass: SecondPass::OfAnOlderValueAndLease, ..replica };
    with_each(&EVERY_MISHAP, twice, ends_right);
    ends_right(&World { readers: &[LEASE_NEWER_OF_A_REPLICA; 3], ..twice });
    // Each half of it is needed.
    ends_wrong(&World { second_pass: SecondPass::OfAnOlderValue, ..replica });
    ends_wrong(&World { second_pass: SecondPass::OfTheLease, ..replica });

    let without_leases = World { readers: &[NEWER, NEWER], ..WRITES };
    ends_wrong(&without_leases);
    let twice = World {
        second_pass: SecondPass::OfAnOlderValueAndLease,
        delay: Delay::OutlastsLoads,
        ..without_leases
    };
    with_each(&EVERY_MISHAP, twice, ends_right);
    absent("older over newer", seen(&twice).older_over_newer, &twice);
    ends_wrong(&World { delay: Delay::Any, ..twice });
    // A reader that compares nothing puts an older version in the place of a newer one, and it is removed.
    let plain = World { readers: &[PLAIN, LEASE_NEWER], ..twice };
    with_each(&EVERY_MISHAP, plain, ends_right);
    fault(seen(&plain).older_over_newer, &plain);
}

#[test]
fn the_second_pass_of_write_through_leaves_right_values() {
    let leaves = |world: &World| absent("right and removed", seen(world).right_removed, world);
    let replica = World { readers: &[LEASE_NEWER_OF_A_REPLICA, LEASE_NEWER], ..WRITES };
    let twice = World { second_pass: SecondPass::OfAnOlderValueAndLease, ..replica };
    with_each(&EVERY_MISHAP, twice, leaves);
    with_each(&EVERY_MISHAP, World { announced_early: true, ..twice }, leaves);
    let whatever = World { second_pass: SecondPass::OfValueAndLease, ..replica };
    fault(seen(&whatever).right_removed, &whatever);
}

#[test]
fn each_rule_of_write_through_is_needed() {
    let mutant = |rules| World { routes: rules, ..WRITES };
    let not_compared = mutant(&[Act::Set(Set { compares_versions: false, ..RULES })]);
    fault(seen(&not_compared).older_over_newer, &not_compared);
    // And read, once the cursor is lost.
    let replayed = World { mishaps: &[Mishap::LosesTheCursor], ..not_compared };
    fault(seen(&replayed).stale_read, &replayed);

    ends_wrong(&mutant(&[Act::Set(Set { removes_the_lease: false, ..RULES })]));

    // What is replayed into an emptied cache are old versions.
    let everywhere = mutant(&[Act::Set(Set { only_where_a_value_is: false, ..RULES })]);
    let flushed = World { mishaps: &[Mishap::Flush], ..everywhere };
    fault(seen(&flushed).stale_read, &flushed);

    let plain = World { readers: &[PLAIN, LEASE_NEWER], ..WRITES };
    fault(seen(&plain).older_over_newer, &plain);

    ends_wrong(&World { mishaps: &[Mishap::Failover], cursor: Cursor::BesideTheStream, ..WRITES });
}
