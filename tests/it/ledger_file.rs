//! The ledger as a file: the owner's alone, noticed when it is not where it was, and never made by mistake.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, User, chat, chat_stream};
use crate::support::door::Door;
use crate::support::process::Printed;
use crate::support::reply::Talk;
use crate::support::settings::Settings;

/// What a server that has its ledger open keeps.
const FILES: [&str; 3] = ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm"];

fn data(door: &Door, name: &str) -> PathBuf {
    door.directory().join("data").join(name)
}

/// Asks until the answer has this status; how long that took.
async fn until(user: &User, status: u16) -> Duration {
    let begun = Instant::now();
    while user.ask(chat("is it so yet")).await.status != status {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no {status} in ten seconds"
        );
        sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

/// The ledger is out of use, and everybody is told so.
async fn is_out_of_use(door: &Door, alice: &User) {
    assert!(until(alice, 503).await < Duration::from_secs(1));
    let served = door.upstream.count();
    alice
        .ask(chat("now"))
        .await
        .refused(503, "store_unavailable");
    alice.get("/api/me").await.refused(503, "store_unavailable");
    alice
        .get("/api/usage")
        .await
        .refused(503, "store_unavailable");
    door.send(Call::get("/health/ready")).await.expect(503);
    door.send(Call::get("/")).await.expect(200);
    assert_eq!(
        door.upstream.count(),
        served,
        "the upstream was dialled without a ledger"
    );
}

fn refused(printed: &Printed, words: &str) {
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.stderr.contains(words) && printed.stderr.contains("\nnext: "),
        "{words}: {printed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_moved_is_503_within_a_second_and_goes_on_when_it_is_put_back() {
    for moved in [&FILES[..], &FILES[..1], &FILES[1..2], &FILES[2..]] {
        let door = Door::open(Settings::new().on_sqlite()).await;
        let alice = door.user("alice");
        alice.ask(chat("before")).await.expect(200);
        door.upstream
            .next(|seen| Talk::words(5).every(Duration::from_millis(400)).reply(seen));
        let mut open = alice.open(chat_stream("open meanwhile")).await;
        open.take(1).await;
        let away = door.directory().join("away");
        fs::create_dir(&away).unwrap();
        for name in moved {
            fs::rename(data(&door, name), away.join(name)).unwrap();
        }

        is_out_of_use(&door, &alice).await;
        let heard = open.rest().await;
        if moved.contains(&"tollgate.db") {
            for command in [
                &["pause"][..],
                &["user", "block", &alice.id.to_string()],
                &["prune"],
            ] {
                refused(&door.tollgate(command), "there is no ledger at");
            }
            assert!(!data(&door, "tollgate.db").exists());
        } else {
            refused(&door.tollgate(&["pause"]), "serves from another file");
        }

        for name in moved {
            fs::rename(away.join(name), data(&door, name)).unwrap();
        }
        until(&alice, 200).await;
        door.send(Call::get("/health/ready")).await.expect(200);
        assert_eq!(
            door.row(&heard).await.state,
            "settled",
            "what ended meanwhile is settled now"
        );
        door.restart().await;
        alice.ask(chat("after")).await.expect(200);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_put_back_counts_only_if_it_has_all_that_was_written() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    alice.ask(chat("one")).await.expect(200);
    door.quiet_rows().await;
    let (older, newer) = (
        door.directory().join("older"),
        door.directory().join("newer"),
    );
    let copy = |to: &Path| {
        fs::create_dir(to).unwrap();
        for name in FILES {
            fs::copy(data(&door, name), to.join(name)).unwrap();
        }
    };
    copy(&older);
    alice.ask(chat("two")).await.expect(200);
    door.quiet_rows().await;
    copy(&newer);
    for name in FILES {
        fs::remove_file(data(&door, name)).unwrap();
    }
    // What is written before it is noticed is in no copy.
    sleep(Duration::from_millis(500)).await;
    is_out_of_use(&door, &alice).await;

    let put = |from: &Path| {
        for name in FILES {
            fs::copy(from.join(name), data(&door, name)).unwrap();
        }
    };
    put(&older);
    sleep(Duration::from_secs(1)).await;
    is_out_of_use(&door, &alice).await;
    refused(&door.tollgate(&["pause"]), "serves from another file");
    for name in FILES {
        drop(fs::remove_file(data(&door, name)));
    }
    put(&newer);
    until(&alice, 200).await;
    door.must(&["pause"]);
    until(&alice, 503).await;
    door.must(&["resume"]);
    until(&alice, 200).await;
    door.restart().await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ledger_in_its_place_is_neither_served_from_nor_paused() {
    let (door, other) = (
        Door::open(Settings::new().on_sqlite()).await,
        Door::open(Settings::new().on_sqlite()).await,
    );
    other.process.term(Duration::from_secs(20)).await;
    let alice = door.user("alice");
    alice.ask(chat("one")).await.expect(200);
    let away = door.directory().join("away");
    fs::create_dir(&away).unwrap();
    for name in FILES {
        fs::rename(data(&door, name), away.join(name)).unwrap();
    }
    fs::copy(data(&other, "tollgate.db"), data(&door, "tollgate.db")).unwrap();
    is_out_of_use(&door, &alice).await;
    for command in [
        &["pause"][..],
        &["admin-token", "create", "laptop"],
        &["user", "block", &alice.id.to_string()],
    ] {
        refused(&door.tollgate(command), "serves from another file");
    }
    fs::write(data(&door, "tollgate.db"), "").unwrap();
    is_out_of_use(&door, &alice).await;
    refused(&door.tollgate(&["pause"]), "there is no ledger at");
    for name in FILES {
        let _ = fs::remove_file(data(&door, name));
        fs::rename(away.join(name), data(&door, name)).unwrap();
    }
    until(&alice, 200).await;
    door.close().await;
    other.start().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_log_had_is_saved_and_a_restart_goes_on() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("one")).await.expect(200);
    }
    door.quiet_rows().await;
    for name in &FILES[1..] {
        fs::remove_file(data(&door, name)).unwrap();
    }
    is_out_of_use(&door, &alice).await;
    door.process.kill9();
    door.start().await;
    assert_eq!(door.quiet_rows().await.len(), door.upstream.count());
    alice.ask(chat("after")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_ledger_is_not_thrown_away_by_a_new_one() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    alice.ask(chat("one")).await.expect(200);
    let rows = door.quiet_rows().await.len();
    door.process.kill9();
    fs::rename(data(&door, FILES[0]), door.directory().join("kept")).unwrap();
    let log = fs::read(data(&door, FILES[1])).unwrap();
    refused(&door.tollgate(&["migrate"]), "is still there");
    assert_eq!(fs::read(data(&door, FILES[1])).unwrap(), log);
    fs::rename(door.directory().join("kept"), data(&door, FILES[0])).unwrap();
    door.start().await;
    assert_eq!(door.quiet_rows().await.len(), rows);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_serve_migrate_and_admin_token_create_make_a_ledger_and_say_where() {
    let door = Door::prepare(Settings::new().on_sqlite()).await;
    let alice = door.user("alice").id.to_string();
    for command in [
        &["pause"][..],
        &["resume"],
        &["user", "show", &alice],
        &["user", "plan", &alice, "free"],
        &["user", "block", &alice],
        &["user", "credit", &alice, "day", "requests", "7"],
        &["usage"],
        &["top"],
        &["prune"],
        &["ledger", "check"],
        &["ledger", "export", "page.jsonl"],
        &["ledger", "backup", "copy.db"],
        &["admin-token", "list"],
        &["admin-token", "revoke", "laptop"],
        &["check"],
        &["doctor"],
        &["token", "--user", &alice],
    ] {
        let printed = door.tollgate(command);
        let may_do_without = matches!(command[0], "check" | "doctor" | "token");
        assert!(
            may_do_without || printed.code == Some(1),
            "{command:?}: {printed:?}"
        );
        assert!(
            may_do_without || printed.stderr.contains("there is no ledger at"),
            "{command:?}: {printed:?}"
        );
        assert!(!data(&door, "").exists(), "{command:?} made something");
    }
    let path = data(&door, "tollgate.db");
    let told = door.must(&["migrate"]);
    assert!(told.contains(path.to_str().unwrap()), "{told}");
    assert!(!door.must(&["migrate"]).contains("new"));
    fs::remove_dir_all(data(&door, "")).unwrap();
    let printed = door.tollgate(&["admin-token", "create", "laptop"]);
    assert!(
        printed.code == Some(0) && printed.stderr.contains(path.to_str().unwrap()),
        "{printed:?}"
    );
    assert!(
        printed.stdout.starts_with("tga_") && printed.stdout.lines().count() == 1,
        "{printed:?}"
    );
    fs::remove_dir_all(data(&door, "")).unwrap();
    door.start().await;
    door.process.until_it_says("a new ledger is made").await;
    assert!(door.process.output().contains(path.to_str().unwrap()));
    door.close().await;
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_its_owners_alone_whatever_the_umask() {
    let door = Door::open(Settings::new().on_sqlite().under(&[
        "sh",
        "-c",
        "umask 000; exec \"$@\"",
        "sh",
    ]))
    .await;
    let alice = door.user("alice");
    alice.ask(chat("one")).await.expect(200);
    door.quiet_rows().await;
    let found = files(&data(&door, ""));
    assert!(found.len() >= 4, "{found:?}");
    for path in &found {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&data(&door, "")), 0o700);

    // What an older version left open to others is shut at the next start; what commands write is shut as well.
    door.process.term(Duration::from_secs(20)).await;
    for name in ["tollgate.db", "tollgate.db.lock"] {
        fs::set_permissions(data(&door, name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::write(door.directory().join("page.jsonl"), "").unwrap();
    fs::set_permissions(
        door.directory().join("page.jsonl"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    door.must(&["ledger", "export", "page.jsonl"]);
    fs::set_permissions(
        data(&door, "tollgate.db"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    door.start().await;
    door.process
        .until_it_says("others could read this file")
        .await;
    alice.ask(chat("two")).await.expect(200);
    door.must(&["ledger", "backup", "copies-of-it.db"]);
    for path in files(&data(&door, ""))
        .into_iter()
        .chain(["page.jsonl", "copies-of-it.db"].map(|name| door.directory().join(name)))
    {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    door.process.term(Duration::from_secs(20)).await;
    door.must(&["ledger", "restore", "--force", "copies-of-it.db"]);
    for path in files(&data(&door, "")) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    door.start().await;
    door.close().await;
}
