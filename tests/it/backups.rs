//! The ledger's file is copied while it is served from, and put back: every row that had ended is there, nothing of what
//! was in the way is lost, and nothing but a whole ledger is ever put in place of one.

use std::fs;
use std::time::Duration;

use crate::support::caller::{User, chat};
use crate::support::disk::integrity;
use crate::support::door::Door;
use crate::support::load::{Dice, keeps_asking};
use crate::support::oracle::Row;
use crate::support::process::Printed;
use crate::support::settings::Settings;

const PATIENCE: Duration = Duration::from_secs(20);

fn ended(rows: Vec<Row>) -> Vec<String> {
    rows.iter()
        .filter(|row| row.state != "held")
        .map(|row| format!("{row:?}"))
        .collect()
}

#[track_caller]
fn refused(printed: &Printed, why: &str) {
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.stderr.contains(why) && printed.stderr.contains("next:"),
        "{why}: {printed:?}"
    );
}

fn names_in(door: &Door, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(door.directory().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_under_load_and_restored_after_a_kill_has_every_row_that_had_ended() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let mut dice = Dice::thrown();
    let users: Vec<User> = ["alice", "bob", "carol", "dave"]
        .map(|name| door.user(name))
        .to_vec();
    let callers: Vec<_> = users
        .iter()
        .map(|user| keeps_asking(user.clone(), dice.another()))
        .collect();
    while ended(door.ledger_rows()).len() < 40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let before = ended(door.ledger_rows());
    let printed = door.tollgate(&["ledger", "backup", "copies/one.db"]);
    let after = ended(door.ledger_rows());
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.stderr.contains("checked"), "{printed:?}");
    assert_eq!(names_in(&door, "copies"), ["one.db"], "and nothing else");
    assert!(after.len() > before.len(), "it went on serving meanwhile");
    for caller in callers {
        caller.abort();
    }
    door.process.kill9();

    // Into an empty place: what it had used counts there, and what was open is lost and charged.
    let elsewhere = [("TOLLGATE_STORE__URL", "sqlite:back/ledger.db")];
    let restored = door.tollgate_with(&["ledger", "restore", "copies/one.db"], &elsewhere);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let sums = |text: &str| {
        text.split_once(": ")
            .unwrap()
            .1
            .split_once("; checked")
            .map(|(sums, _)| sums.to_owned())
    };
    assert!(
        restored.stderr.contains(&sums(&printed.stderr).unwrap()),
        "{restored:?} and {printed:?}"
    );
    assert_eq!(integrity(&door.directory().join("back/ledger.db")), "ok");
    let listed = door.tollgate_with(&["usage", "--requests", "--json"], &elsewhere);
    let rows: Vec<Row> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let there = ended(rows);
    for row in &before {
        assert!(
            there.contains(row),
            "had ended before the back-up began: {row}"
        );
    }
    for row in &there {
        assert!(
            after.contains(row),
            "is in the copy, and had not ended when it was done: {row}"
        );
    }
    let verified = door.tollgate_with(&["ledger", "backup", "copies/two.db"], &elsewhere);
    assert_eq!(sums(&verified.stderr), sums(&printed.stderr));

    // The true ledger goes on where it was, for the oracle.
    door.start().await;
    users[0].ask(chat("after")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_ledger_serves_and_knows_what_everybody_had_used() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("before")).await.expect(200);
    }
    door.must(&["user", "block", &door.user("mallory").id.to_string()]);
    let rows = ended(door.quiet_rows().await);
    let me = alice.me().await;
    door.must(&["ledger", "backup", "copy.db"]);

    door.process.kill9();
    fs::remove_dir_all(door.directory().join("data")).unwrap();
    door.must(&["ledger", "restore", "copy.db"]);
    door.start().await;
    assert_eq!(ended(door.quiet_rows().await), rows);
    assert_eq!(alice.me().await, me);
    door.user("mallory")
        .ask(chat("blocked"))
        .await
        .refused(403, "user_blocked");
    alice.ask(chat("after")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_never_replaces_a_file_and_a_restore_never_loses_a_ledger() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    alice.ask(chat("one")).await.expect(200);
    door.quiet_rows().await;
    door.must(&["ledger", "backup", "copy.db"]);
    let copy = fs::read(door.directory().join("copy.db")).unwrap();
    alice.ask(chat("two")).await.expect(200);
    let rows = ended(door.quiet_rows().await);

    refused(
        &door.tollgate(&["ledger", "backup", "copy.db"]),
        "is there already",
    );
    assert_eq!(fs::read(door.directory().join("copy.db")).unwrap(), copy);
    refused(
        &door.tollgate(&["ledger", "restore", "copy.db"]),
        "another tollgate serves",
    );
    refused(
        &door.tollgate(&["ledger", "restore", "--force", "copy.db"]),
        "another tollgate serves",
    );
    door.process.kill9();
    refused(
        &door.tollgate(&["ledger", "restore", "copy.db"]),
        "is not empty",
    );
    refused(
        &door.tollgate(&["ledger", "restore", "nowhere.db"]),
        "no file",
    );

    // What is cut, altered, or no ledger leaves the ledger as it is, even by force.
    let mut altered = copy.clone();
    for byte in &mut altered[4096 * 3..4096 * 3 + 64] {
        *byte ^= 0x5a;
    }
    fs::write(door.directory().join("altered.db"), altered).unwrap();
    fs::write(door.directory().join("cut.db"), &copy[..copy.len() / 2]).unwrap();
    fs::write(
        door.directory().join("text.db"),
        "no database at all".repeat(99),
    )
    .unwrap();
    fs::write(door.directory().join("empty.db"), "").unwrap();
    fs::copy(
        door.directory().join("copy.db"),
        door.directory().join("disagrees.db"),
    )
    .unwrap();
    let disagrees = rusqlite::Connection::open(door.directory().join("disagrees.db")).unwrap();
    disagrees
        .execute(
            "update window_sums set micros_used = 0 where per = 'lifetime' and user_id <> 'app'",
            [],
        )
        .unwrap();
    drop(disagrees);
    for bad in [
        "altered.db",
        "cut.db",
        "text.db",
        "empty.db",
        "disagrees.db",
    ] {
        let printed = door.tollgate(&["ledger", "restore", "--force", bad]);
        assert_eq!(printed.code, Some(1), "{bad}: {printed:?}");
        assert_eq!(ended(door.ledger_rows()), rows, "after {bad}");
    }
    assert!(
        names_in(&door, "data")
            .iter()
            .all(|name| name.starts_with("tollgate.db") && !name.contains("part"))
    );

    // By force: the old one is kept, with the rows that the copy does not have.
    door.must(&["ledger", "restore", "--force", "copy.db"]);
    assert_eq!(door.ledger_rows().len(), 1);
    let kept = names_in(&door, "data")
        .into_iter()
        .find(|name| name.contains("before-restore"))
        .unwrap();
    door.must(&["ledger", "backup", "again.db"]);
    assert_eq!(
        fs::read(door.directory().join("again.db")).unwrap().len(),
        copy.len()
    );
    let old = [("TOLLGATE_STORE__URL", format!("sqlite:data/{kept}"))];
    let old: Vec<(&str, &str)> = old
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let listed = door.tollgate_with(&["usage", "--requests", "--json"], &old);
    assert_eq!(listed.stdout.lines().count(), 2, "{listed:?}");
    // Back to it, for the oracle.
    door.must(&["ledger", "restore", "--force", &format!("data/{kept}")]);
    door.start().await;
    assert_eq!(ended(door.quiet_rows().await), rows);
    door.process.term(PATIENCE).await;
    door.start().await;
    door.close().await;
}
