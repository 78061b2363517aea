//! Which of the sentinels' answers counts.

use std::borrow::Cow;

use crate::config::{Address, Sentinels};
use crate::server::error::{Class, Error};

/// A sentinel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// It names a master.
    Master {
        /// The configuration epoch: each failover has a higher one.
        epoch: u64,
        /// The master's address.
        address: Address,
    },
    /// It does not watch a master of this name, but those.
    Unknown(Vec<String>),
}

/// A master that was believed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) epoch: u64,
    pub(super) address: Address,
}

/// Why no master is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undecided {
    /// None answers.
    NoAnswer,
    /// None knows the name.
    UnknownName,
    /// They name several in one epoch, and none of them mostly.
    Contradiction,
    /// They say less than was known.
    Older,
}

/// The master to use, by all answers and the former choice.
pub(super) fn decide(
    said: &[Result<Opinion, Error>],
    before: Option<&Believed>,
) -> Result<Believed, Undecided> {
    let named: Vec<Believed> = said
        .iter()
        .filter_map(|answer| match answer {
            Ok(Opinion::Master { epoch, address }) => {
                Some(Believed { epoch: *epoch, address: address.clone() })
            }
            _ => None,
        })
        .collect();
    let Some(epoch) = named.iter().map(|named| named.epoch).max() else {
        let answered = said.iter().any(Result::is_ok);
        return Err(if answered { Undecided::UnknownName } else { Undecided::NoAnswer });
    };
    let count = |wanted: &Believed| named.iter().filter(|named| *named == wanted).count();
    let newest = || named.iter().filter(|named| named.epoch == epoch);
    let is_agreed =
        |found: &&Believed| newest().all(|named| named == *found) || count(found) * 2 > named.len();
    let Some(found) = newest().find(is_agreed).cloned() else { return Err(Undecided::Contradiction) };
    match before {
        Some(before) if epoch < before.epoch && count(&found) < said.len() => Err(Undecided::Older),
        // Nobody was promoted in this epoch: an operator has made the sentinels anew, or one of them is new and wrong.
        Some(before)
            if epoch == before.epoch
                && found.address != before.address
                && count(&found) * 2 <= said.len() =>
        {
            Err(Undecided::Contradiction)
        }
        _ => Ok(found),
    }
}

impl Undecided {
    pub(super) fn error(self, sentinels: &Sentinels, said: &[Result<Opinion, Error>]) -> Error {
        let name = &sentinels.master;
        let listed: Vec<String> = said
            .iter()
            .map(|answer| match answer {
                Ok(Opinion::Master { epoch, address }) => format!("{address} in epoch {epoch}"),
                Ok(Opinion::Unknown(_)) => "an unknown name".to_owned(),
                Err(error) => error.to_string(),
            })
            .collect();
        let listed = listed.join("; ");
        match self {
            Self::NoAnswer => {
                let hint = said.iter().find_map(|answer| answer.as_ref().err()?.hint());
                let hint = hint.map_or_else(
                    || {
                        let addresses = sentinels.endpoint.key("addresses");
                        format!("check {addresses}, and that the sentinels run")
                    },
                    Cow::into_owned,
                );
                // Only an operator can help if that is so of every sentinel.
                let blocks = said
                    .iter()
                    .all(|answer| answer.as_ref().is_err_and(|error| error.class() == Class::Block));
                Error::Sentinel {
                    reason: format!("no sentinel of \"{name}\" answers: {listed}"),
                    hint: Some(hint),
                    class: if blocks { Class::Block } else { Class::Retry },
                }
            }
            Self::UnknownName => {
                let mut known: Vec<&str> = said
                    .iter()
                    .filter_map(|answer| match answer {
                        Ok(Opinion::Unknown(names)) => Some(names),
                        _ => None,
                    })
                    .flatten()
                    .map(String::as_str)
                    .collect();
                known.sort_unstable();
                known.dedup();
                let known = if known.is_empty() { "no master".to_owned() } else { known.join(", ") };
                Error::Refused(format!("the sentinels do not know the master \"{name}\"; they know {known}"))
            }
            Self::Contradiction => {
                let hint = "wait for the failover to end, or compare SENTINEL MASTER on each sentinel";
                Error::Sentinel {
                    reason: format!(
                        "the sentinels contradict each other about the master of \"{name}\": {listed}"
                    ),
                    hint: Some(hint.to_owned()),
                    class: Class::Retry,
                }
            }
            Self::Older => {
                let addresses = sentinels.endpoint.key("addresses");
                let hint = format!(
                    "start the sentinel that knows of the last failover. If the sentinels were made anew, all of {addresses} \
                     must name the same master: start the missing ones, or take those that are gone out of it and reload"
                );
                Error::Sentinel {
                    reason: format!(
                        "the sentinels report an older master of \"{name}\" than was known: {listed}"
                    ),
                    hint: Some(hint),
                    class: Class::Retry,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
