//! Which of the sentinels' answers counts.

use proptest::prelude::*;

use super::*;

fn address(port: u16) -> Address {
    Address::Tcp { host: "h".to_owned(), port }
}

fn says(epoch: u64, port: u16) -> Result<Opinion, Error> {
    Ok(Opinion::Master { epoch, address: address(port) })
}

fn away() -> Result<Opinion, Error> {
    Err(Error::Closed)
}

fn unknown() -> Result<Opinion, Error> {
    Ok(Opinion::Unknown(Vec::new()))
}

#[test]
fn the_highest_epoch_is_believed_and_never_less_than_was_seen() {
    let seen = |epoch, port| Some((epoch, port));
    for (said, before, expected) in [
        (vec![says(0, 1), says(0, 1), says(0, 1)], None, Ok((0, 1))),
        // One knows of the failover, one does not yet, one is stopped.
        (vec![says(1, 2), says(0, 1), away()], seen(0, 1), Ok((1, 2))),
        (vec![says(0, 1), says(0, 1), says(1, 2)], seen(0, 1), Ok((1, 2))),
        // One is enough, if its epoch is not below the highest seen.
        (vec![away(), away(), says(1, 2)], seen(1, 2), Ok((1, 2))),
        (vec![away(), away(), says(0, 1)], seen(1, 2), Err(Undecided::Older)),
        (vec![away(), says(0, 1), says(0, 1)], seen(1, 2), Err(Undecided::Older)),
        // All were made anew.
        (vec![says(0, 3), says(0, 3), says(0, 3)], seen(7, 2), Ok((0, 3))),
        (vec![says(0, 3), says(1, 3), says(1, 3)], seen(7, 2), Err(Undecided::Older)),
        // Several in one epoch.
        (vec![says(0, 1), says(0, 2), says(0, 1)], None, Ok((0, 1))),
        (vec![says(0, 1), says(0, 2)], None, Err(Undecided::Contradiction)),
        // A wrong new one does not change the known master.
        (vec![away(), away(), says(0, 2)], seen(0, 1), Err(Undecided::Contradiction)),
        (vec![says(0, 2), says(0, 2), says(0, 1)], seen(0, 1), Ok((0, 2))),
        (vec![away(), away()], seen(0, 1), Err(Undecided::NoAnswer)),
        (vec![away(), unknown()], None, Err(Undecided::UnknownName)),
        (vec![unknown(), says(4, 1)], None, Ok((4, 1))),
    ] {
        let before = before.map(|(epoch, port)| Believed { epoch, address: address(port) });
        let expected = expected.map(|(epoch, port)| Believed { epoch, address: address(port) });
        assert_eq!(decide(&said, before.as_ref()), expected, "{said:?} {before:?}");
    }
}

proptest! {
    /// Any mixture of sentinels that know the present, the past and nothing, round after round: each epoch has one master.
    #[test]
    fn no_round_leads_to_a_loser_of_a_newer_epoch(
        rounds in prop::collection::vec(prop::collection::vec(prop::option::of(0..6_u16), 3), 1..40)
    ) {
        let mut believed: Option<Believed> = None;
        for round in rounds {
            let answer = |known: &Option<u16>| known.map_or_else(away, |epoch| says(epoch.into(), epoch));
            let said: Vec<_> = round.iter().map(answer).collect();
            let Ok(found) = decide(&said, believed.as_ref()) else { continue };
            prop_assert_eq!(&found.address, &address(u16::try_from(found.epoch).unwrap()));
            prop_assert_eq!(Some(found.epoch), round.iter().flatten().max().map(|epoch| u64::from(*epoch)));
            if believed.is_some_and(|before| found.epoch < before.epoch) {
                let all = round.iter().all(|known| known.map(u64::from) == Some(found.epoch));
                prop_assert!(all, "{:?} went back to {}", round, found.epoch);
            }
            believed = Some(found);
        }
    }
}
