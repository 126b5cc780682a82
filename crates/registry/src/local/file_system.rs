//! Tells file systems on which locks and events of other machines would not be seen.

use std::os::fd::OwnedFd;

/// The name of the network file system that `dir` stands on, if it is one we know.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn network(dir: &OwnedFd) -> Option<&'static str> {
    rustix::fs::fstatfs(dir).ok().and_then(|found| named(found.f_type as u32))
}

/// Other systems do not tell by a number; their errors on locking have to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn network(_dir: &OwnedFd) -> Option<&'static str> {
    None
}

/// By the magic numbers of `statfs(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn named(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "nfs",
        0x0000_517b => "smb",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb2",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x0000_564c => "ncp",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x7461_636f => "ocfs2",
        0x0116_1970 => "gfs2",
        0x1983_0326 => "beegfs",
        _ => return None,
    })
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_those_of_this_machine() {
        let (ext4, tmpfs, overlay, xfs, btrfs, zfs) =
            (0xef53, 0x0102_1994, 0x794c_7630, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1);
        for local in [ext4, tmpfs, overlay, xfs, btrfs, zfs] {
            assert_eq!(named(local), None);
        }
        assert_eq!(
            (named(0x6969), named(0xff53_4d42), named(0x0102_1997)),
            (Some("nfs"), Some("cifs"), Some("9p"))
        );
    }

    #[test]
    fn the_temporary_directory_of_this_machine_is_fit() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        assert_eq!(network(&dir.into()), None);
    }
}
