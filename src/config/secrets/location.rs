//! Where a file that holds a secret may be.
//!
//! Under systemd a credential has a directory of its own (`$CREDENTIALS_DIRECTORY`), which a shell does not have. So
//! that the same configuration serves the commands there, the places that credentials are made from and kept in are
//! looked at as well.

use std::io;
use std::path::{Path, PathBuf};

/// Where systemd keeps the credentials of the units that run, readable for root.
const RUNNING: &str = "/run/credentials";

/// The directories in which a relative name is looked for, in their order.
#[derive(Debug, Clone)]
pub(crate) struct SecretPlaces(Vec<PathBuf>);

impl SecretPlaces {
    /// `$CREDENTIALS_DIRECTORY`, the directory of the configuration, `credentials` beside it, and the credentials of
    /// the units of tidegate that run.
    pub(crate) fn new(credentials: Option<&Path>, directory: &Path) -> Self {
        let mut places: Vec<PathBuf> = credentials.map(Path::to_owned).into_iter().collect();
        places.push(directory.to_owned());
        places.push(directory.join("credentials"));
        places.extend(running(Path::new(RUNNING)));
        Self(places)
    }

    /// Where a file with this name may be. An absolute path is one place.
    pub(crate) fn of(&self, name: &str) -> Vec<PathBuf> {
        if Path::new(name).is_absolute() {
            return vec![PathBuf::from(name)];
        }
        self.0.iter().map(|place| place.join(name)).collect()
    }
}

/// The first of these that is there. One that may not be looked at counts as there: the error is then its own.
pub(crate) fn first(candidates: &[PathBuf]) -> Option<&PathBuf> {
    candidates.iter().find(|path| match path.metadata() {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    })
}

/// `tidegate.service`, `tidegate@0.service` and such. None where the directory cannot be read.
fn running(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = root.read_dir() else { return Vec::new() };
    let units = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut units: Vec<PathBuf> = units
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("tidegate") && path.extension().is_some_and(|kind| kind == "service")
        })
        .collect();
    units.sort();
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credentials_of_running_units_of_tidegate_are_found() {
        let root = tempfile::tempdir().unwrap();
        for unit in ["redis.service", "tidegate@1.service", "tidegate.service", "tidegate.old"] {
            std::fs::create_dir(root.path().join(unit)).unwrap();
        }
        let found = running(root.path());
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["tidegate.service", "tidegate@1.service"]);
        assert!(running(&root.path().join("absent")).is_empty());
    }

    #[test]
    fn an_absolute_path_is_one_place_and_the_first_that_is_there_counts() {
        let directory = tempfile::tempdir().unwrap();
        let places = SecretPlaces::new(Some(Path::new("/nonexistent")), directory.path());
        assert_eq!(places.of("/x/shop.pass"), [Path::new("/x/shop.pass")]);
        let candidates = places.of("shop.pass");
        assert_eq!(first(&candidates), None);
        let beside = directory.path().join("credentials/shop.pass");
        std::fs::create_dir(directory.path().join("credentials")).unwrap();
        std::fs::write(&beside, "x").unwrap();
        assert_eq!(first(&candidates), Some(&beside));
    }
}
