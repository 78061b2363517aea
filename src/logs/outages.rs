//! A server that is away fails every route that uses it; one line reports it for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Limited;

/// Lets one line in 30 s through for each endpoint and code, of whichever route. Cheap to clone: clones share their
/// state. It holds one name for each endpoint ever configured in this process.
#[derive(Debug, Clone, Default)]
pub struct Outages(Arc<Mutex<BTreeMap<String, Limited>>>);

impl Outages {
    /// Whether to write the line now: `Some` with the number of lines held back since the last one, of all routes.
    #[must_use]
    pub fn admit(&self, code: &'static str, endpoint: &str, now: Instant) -> Option<u64> {
        let mut endpoints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get_mut(endpoint) {
            return known.admit(code, now);
        }
        endpoints.entry(endpoint.to_owned()).or_default().admit(code, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_line_for_each_endpoint_whichever_route_it_is_of() {
        let (outages, now) = (Outages::default(), Instant::now());
        let other_route = outages.clone();
        assert_eq!(outages.admit("away", "shop", now), Some(0));
        assert_eq!(other_route.admit("away", "shop", now), None);
        assert_eq!(other_route.admit("away", "events", now), Some(0));
        assert_eq!(other_route.admit("lost", "shop", now), Some(0));
        assert_eq!(outages.admit("away", "shop", now + Duration::from_secs(30)), Some(1));
    }
}
