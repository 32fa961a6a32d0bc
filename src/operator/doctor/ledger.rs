//! The ledger: can it be written and read, and is there room on its disk?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Check, Deployment, postgres};
use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::ledger::tools::probe::{Probe, probe};

const MIB: u64 = 1024 * 1024;
/// With less than this a busy day, or one `VACUUM`, fills the disk, and then no request is served.
const FREE_MIN: u64 = 100 * MIB;
/// With less than this it is time to look.
const FREE_GOOD: u64 = 1024 * MIB;

/// The ledger's two lines.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let path = match &deployment.config.store.url {
        StoreUrl::Sqlite(path) => path.clone(),
        StoreUrl::Postgres(url) => return vec![postgres::ledger(url).await],
    };
    let now = deployment.clock.now();
    let (tell, told) = oneshot::channel();
    // A thread of its own, as a disk that hangs would keep tokio's from ending.
    let work = move || drop(tell.send(vec![writing(&path, now), space(&path)]));
    let started = std::thread::Builder::new()
        .name("doctor".to_owned())
        .spawn(work);
    match (started, told.await) {
        (Ok(_), Ok(checks)) => checks,
        _ => vec![Check::fail(
            "ledger",
            "no thread could look at it",
            "raise the limits of this process",
        )],
    }
}

fn writing(path: &Path, now: Timestamp) -> Check {
    let shown = path.display();
    match probe(path, now) {
        Ok(Probe::Works) => Check::ok("ledger", format!("{shown} is written and read")),
        Ok(Probe::NotThereYet) => Check::ok(
            "ledger",
            format!("{shown} is not there yet; its folder can be written, and `serve` makes it"),
        ),
        Err(failure) => {
            let folder = existing(path);
            let fix = format!(
                "make it writable for the user that runs tollgate: sudo chown -R \"$(id -u)\" {}; or name another with \
                 [store] url",
                folder.display()
            );
            Check::fail("ledger", failure.to_string(), fix)
        }
    }
}

fn space(path: &Path) -> Check {
    let folder = existing(path);
    match rustix::fs::statvfs(&folder) {
        Ok(disk) => room(&folder, disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => {
            let fix = format!("look yourself: df -h {}", folder.display());
            Check::warn(
                "ledger disk",
                format!("the free space cannot be told: {error}"),
                fix,
            )
        }
    }
}

/// The line for this much free space.
fn room(folder: &Path, free: u64) -> Check {
    let detail = format!(
        "{} MiB are free on the disk of {}",
        free.checked_div(MIB).unwrap_or(0),
        folder.display()
    );
    let fix = format!(
        "make room (df -h {0}; du -sh {0}), or keep fewer rows with [store] keep_requests",
        folder.display()
    );
    match free {
        0..FREE_MIN => Check::fail("ledger disk", detail, fix),
        FREE_MIN..FREE_GOOD => Check::warn("ledger disk", detail, fix),
        _ => Check::ok("ledger disk", detail),
    }
}

/// The folder of the file, or the nearest one above it that is there.
fn existing(path: &Path) -> PathBuf {
    let folders = path
        .ancestors()
        .skip(1)
        .filter(|folder| !folder.as_os_str().is_empty());
    folders
        .into_iter()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_none_a_failure_with_what_to_type() {
        let room = |free| room(Path::new("/data"), free);
        assert_eq!(room(2048 * MIB).status, Status::Ok);
        assert_eq!(room(500 * MIB).status, Status::Warn);
        let full = room(99 * MIB);
        assert_eq!(
            (full.status, full.detail.as_str()),
            (Status::Fail, "99 MiB are free on the disk of /data")
        );
        assert!(full.fix.unwrap().contains("df -h /data"));
    }

    #[test]
    fn the_disk_is_looked_at_where_the_file_will_be() {
        assert_eq!(
            existing(Path::new("/nowhere-at-all/data/x.db")),
            Path::new("/")
        );
        assert_eq!(existing(Path::new("no-such-folder/x.db")), Path::new("."));
        assert!(
            space(Path::new("/nowhere-at-all/x.db"))
                .detail
                .contains("MiB are free")
        );
    }
}
