//! What the documentation announces and this version does not have. An operator who has read of it is
//! told so, and not that the key is misspelt.

use crate::config::problems::Key;

/// Keys of later versions: the table that they stand in, and their names.
const KEYS: [(&str, &[&str]); 1] = [("redis", &["cluster"])];

/// Returns whether a later version knows the key.
pub(crate) fn is_key(key: &Key) -> bool {
    let (Some(last), Some(first)) = (key.parts().last(), key.parts().first()) else { return false };
    let table = if key.parts().len() == 1 { "" } else { first.as_str() };
    KEYS.iter().any(|(known, names)| *known == table && names.contains(&last.as_str()))
}
