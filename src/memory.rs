//! The process's memory limit: that of its control group.
//!
//! A limit holds for a group and everything below it, so the smallest one on the way up counts. Both hierarchies are
//! read, version 2 and version 1, where they are mounted. A container may see its own group as the root of the mount,
//! or under the path that it has on the host, of which the mount shows the end only; both are looked for.

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 says "no limit" with a number near 2⁶³.
const NO_LIMIT: u64 = 1 << 60;

/// The limit in bytes; `None` if there is none, or the system does not say.
#[must_use]
pub(crate) fn limit_bytes() -> Option<u64> {
    limit_in(Path::new("/"))
}

/// The same under another root.
fn limit_in(root: &Path) -> Option<u64> {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = mounts.lines().filter_map(Mount::parse).filter_map(|mount| {
        let group = groups.lines().find_map(|line| mount.version.group(line))?;
        mount.limit(root, group)
    });
    limits.min()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

impl CgroupVersion {
    /// The path of this process's group, out of a line of `/proc/self/cgroup`: `number:controllers:path`.
    fn group(self, line: &str) -> Option<&str> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let fits = match self {
            Self::One => controllers.split(',').any(|name| name == "memory"),
            Self::Two => controllers.is_empty(),
        };
        fits.then_some(path)
    }

    fn file(self) -> &'static str {
        match self {
            Self::One => "memory.limit_in_bytes",
            Self::Two => "memory.max",
        }
    }
}

/// A mounted hierarchy.
struct Mount {
    version: CgroupVersion,
    /// Which group the mount shows as its root.
    shows: PathBuf,
    at: PathBuf,
}

impl Mount {
    /// A line of `/proc/self/mountinfo`: `id parent device root mountpoint options … - type source options`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (shows, at) = (fields.next()?.into(), fields.next()?.into());
        let mut fields = filesystem.split(' ');
        let version = match (fields.next()?, fields.nth(1)?) {
            ("cgroup2", _) => CgroupVersion::Two,
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => CgroupVersion::One,
            _ => return None,
        };
        Some(Self { version, shows, at })
    }

    /// The smallest limit from the group up to the root of the mount.
    fn limit(&self, root: &Path, group: &str) -> Option<u64> {
        let at = root.join(self.at.strip_prefix("/").ok()?);
        let below = Path::new(group).strip_prefix(&self.shows).or(Path::new(group).strip_prefix("/")).ok()?;
        let own = at.join(below);
        // A path of the host that the mount does not show: its root is then the group of the container.
        let own = if own.is_dir() { own } else { at.clone() };
        let groups = own.ancestors().take_while(|group| group.starts_with(&at));
        let limits = groups.filter_map(|group| fs::read_to_string(group.join(self.version.file())).ok());
        limits.filter_map(|text| text.trim().parse().ok()).filter(|limit| *limit < NO_LIMIT).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simulated system: files with their content.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        limit_in(root.path())
    }

    const TWO: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const ONE: &str = "36 32 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                       37 32 0:32 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n";

    #[test]
    fn version_2_counts_the_smallest_limit_on_the_way_up() {
        let group = ("proc/self/cgroup", "0::/system.slice/tidegate.service\n");
        let files = [
            ("proc/self/mountinfo", TWO),
            group,
            ("sys/fs/cgroup/system.slice/tidegate.service/memory.max", "268435456\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ];
        assert_eq!(limit(&files), Some(256 << 20));
        let above = ("sys/fs/cgroup/system.slice/memory.max", "67108864\n");
        assert_eq!(limit(&[files[0], group, files[2], above]), Some(64 << 20));
        assert_eq!(limit(&[files[0], group, files[3]]), None, "max is none");
        assert_eq!(limit(&[files[0], group]), None, "the root has no file");
        assert_eq!(limit(&[]), None);
    }

    #[test]
    fn a_container_of_version_2_sees_its_own_group_as_the_root() {
        let files = [
            ("proc/self/mountinfo", TWO),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "67108864\n"),
        ];
        assert_eq!(limit(&files), Some(64 << 20));
    }

    #[test]
    fn version_1_has_a_path_for_each_controller_and_a_large_number_for_none() {
        let group = ("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/app/one\n0::/\n");
        let mounts = ("proc/self/mountinfo", ONE);
        let file = "sys/fs/cgroup/memory/app/one/memory.limit_in_bytes";
        assert_eq!(limit(&[mounts, group, (file, "67108864\n")]), Some(64 << 20));
        assert_eq!(limit(&[mounts, group, (file, "9223372036854771712\n")]), None);
    }

    /// `/proc/self/cgroup` shows the host's path, and the mount only what is below it.
    #[test]
    fn a_container_of_version_1_sees_the_path_of_the_host() {
        let group = ("proc/self/cgroup", "4:memory:/docker/0123\n");
        let file = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n");
        let shown = "37 32 0:32 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(limit(&[("proc/self/mountinfo", shown), group, file]), Some(64 << 20));
        let elsewhere = "37 32 0:32 /.. /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(limit(&[("proc/self/mountinfo", elsewhere), group, file]), Some(64 << 20));
    }
}
