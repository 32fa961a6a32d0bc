//! What a container does to a program: a root that cannot be written, files that editors and orchestrators replace, a
//! health check that runs beside the server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, chat};
use crate::support::door::Door;
use crate::support::keys::{Key, random_hex};
use crate::support::process::Printed;
use crate::support::settings::Settings;
use crate::support::tokens;
use crate::support::tools::not_checked;

/// Runs the binary in a namespace of mounts where only one folder can be written; nothing where none can be made.
fn with_a_read_only_root(
    writable: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> Option<Printed> {
    const READ_ONLY: &str = "mount --bind \"$1\" \"$1\" || exit 77
        for at in / /tmp /var/tmp; do
          ! mountpoint -q $at || mount -o remount,bind,ro $at || exit 77
        done
        cd \"$1/..\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            READ_ONLY,
            "sh",
        ])
        .arg(writable);
    command.arg(env!("CARGO_BIN_EXE_tollgate")).args(arguments);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = Printed {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    let may_not = printed.code == Some(77) || printed.stderr.starts_with("unshare:");
    (!may_not).then_some(printed)
}

/// A ledger as version 4 left it: a day and a month of each of so many users, and ten requests of each.
fn old_ledger(path: &Path, users: u32) {
    let ledger = rusqlite::Connection::open(path).unwrap();
    for script in [
        include_str!("../../migrations/0001_ledger.sql"),
        include_str!("../../migrations/0002_outbox.sql"),
        include_str!("../../migrations/0003_operator.sql"),
        include_str!("../../migrations/0004_checks.sql"),
        "pragma user_version = 4",
    ] {
        ledger.execute_batch(script).unwrap();
    }
    // Ids that come in no order, as those of real users do.
    let user = "format('%08x-0000-4000-8000-%012x', n * 2654435761 % 4294967296, n)";
    let numbers = format!(
        "with recursive n(n) as (select 1 union all select n + 1 from n where n < {users})"
    );
    ledger
        .execute_batch(&format!(
            "{numbers}, r(r) as (values (1), (2), (3), (4), (5), (6), (7), (8), (9), (10))
             insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                                   held_output_tokens, held_micros, input_tokens, output_tokens, cost_micros,
                                   started_at, ended_at, owner)
             select format('%012x-%012x', r * 1000, n), {user}, 'free', '/api/chat', 'gpt-4o-mini', 'openai', 'settled',
                    10, 10, 10, 5, 5, 5, 1800000000000 + r * 3600000, 1800000000001 + r * 3600000, 'o' from n, r;
             {numbers}, w(per, length) as (values ('day', 86400000), ('month', 2592000000))
             insert into windows (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
             select {user}, 1800000000000 + length, per, 1800000000000, 10, 100, 50 from n, w;"
        ))
        .unwrap();
}

#[test]
fn a_large_ledger_is_migrated_reported_and_backed_up_where_only_its_folder_can_be_written() {
    let home =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("container-{}", std::process::id()));
    let data = home.join("data");
    fs::create_dir_all(&data).unwrap();
    old_ledger(&data.join("tollgate.db"), 20_000);
    let secret = random_hex(24);
    let variables = [
        ("JWT_SECRET", secret.as_str()),
        ("OPENAI_API_KEY", "sk-nobody"),
    ];
    for arguments in [
        &["migrate"][..],
        &["usage", "--by", "day"],
        &["usage", "--by", "model"],
        &["user", "list", "--sort", "spend"],
        &["ledger", "backup", "data/backup.db"],
        &["ledger", "check"],
    ] {
        let Some(printed) = with_a_read_only_root(&data, &variables, arguments) else {
            not_checked("this user may not mount a read-only root");
            break;
        };
        assert_eq!(printed.code, Some(0), "{arguments:?}: {printed:?}");
    }
    fs::remove_dir_all(&home).unwrap();
}

/// What an editor does, and `git pull`: a new file takes the place of the old one.
fn replace(door: &Door, name: &str, contents: &str) {
    door.write_file("new", contents);
    fs::rename(door.directory().join("new"), door.directory().join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_settings_is_read_again_when_an_editor_replaces_its_files() {
    let settings = Settings::without_file()
        .unset("JWT_SECRET")
        .env("TOLLGATE_CONFIG", "settings");
    let door = Door::prepare(settings).await;
    fs::create_dir(door.directory().join("settings")).unwrap();
    let (old, new) = (
        door.jwt_secret().to_owned(),
        format!("canary-jwt-{}", random_hex(24)),
    );
    replace(&door, "settings/.env", &format!("JWT_SECRET='{old}'\n"));
    // A file in the working directory is not meant then.
    door.write_file("tollgate.toml", "this is [ no TOML");
    door.start().await;
    let (of_old, of_new) = (
        tokens::sign(&Key::hs256(old.clone()), &door.claims("alice")),
        tokens::sign(&Key::hs256(new.clone()), &door.claims("alice")),
    );
    let status = async |token: &str| door.send(Call::get("/api/me").bearer(token)).await.status;
    assert_eq!((status(&of_old).await, status(&of_new).await), (200, 401));

    // A file that was not there at the start counts too.
    let plan = "[plans.free]\ndefault = true\nmodels = [\"gpt-4o-mini\"]\nlimits = [{ per = \"day\", requests = 7 }]\n";
    replace(&door, "settings/tollgate.toml", plan);
    door.process.until_it_says("settings reloaded").await;
    let alice = "7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11";
    assert!(
        door.must(&["user", "show", alice]).contains(" 7 used"),
        "a command reads the same folder"
    );

    replace(&door, "settings/.env", &format!("JWT_SECRET='{new}'\n"));
    let begun = Instant::now();
    while status(&of_old).await != 401 {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the old secret is still good"
        );
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&of_new).await, 200);
    // The oracle asks on with the token that it knows.
    replace(&door, "settings/.env", &format!("JWT_SECRET='{old}'\n"));
    while status(&of_old).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(15));
        sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_server_with_a_typo_in_its_file_is_healthy_and_can_be_paused() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let right = fs::read_to_string(door.directory().join("tollgate.toml")).unwrap();
    for (name, wrong) in [
        ("alice", format!("{right}\n[server\n")),
        ("bob", format!("{right}\n[plans.free.lmits]\n")),
    ] {
        let user = door.user(name);
        replace(&door, "tollgate.toml", &wrong);
        door.process.until_it_says("the old ones stay").await;
        door.must(&["health"]);
        door.must(&["pause"]);
        user.ask(chat("hello")).await.refused(503, "paused");
        door.must(&["resume"]);
        door.must(&["user", "block", &user.id.to_string()]);
        // A server sees it within a second, and a busy machine takes longer.
        let begun = Instant::now();
        while user.get("/api/me").await.status != 403 && begun.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(100)).await;
        }
        user.ask(chat("hello")).await.expect(403);
        door.must(&["user", "unblock", &user.id.to_string()]);
        let usage = door.tollgate(&["usage"]);
        assert_eq!(
            usage.code,
            Some(1),
            "what can wait says what is wrong: {usage:?}"
        );
    }
    // Another ledger may be named in what cannot be read.
    replace(&door, "tollgate.toml", &format!("{right}\n[store\n"));
    let pause = door.tollgate(&["pause"]);
    assert_eq!(pause.code, Some(1), "{pause:?}");
    replace(&door, "tollgate.toml", &right);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_leaves_a_container_by_stdout_and_comes_back_by_stdin() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("hello")).await.expect(200);
    }
    door.quiet_rows().await;
    let here = door.directory();
    let secret = random_hex(24);
    let tollgate = |arguments: &[&str], stdin: std::process::Stdio, stdout: std::process::Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .args(arguments)
            .current_dir(here)
            .env_clear()
            .env("TOLLGATE_CONFIG", here.join("none"))
            .stdin(stdin);
        command.envs([
            ("JWT_SECRET", secret.as_str()),
            ("OPENAI_API_KEY", "sk-nobody"),
        ]);
        if arguments[1] == "restore" {
            command.env("TOLLGATE_STORE__URL", "sqlite:other/tollgate.db");
        }
        command
            .stdout(stdout)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap()
    };
    fs::create_dir(here.join("none")).unwrap();
    let copy = fs::File::create(here.join("copy.db")).unwrap();
    let written = tollgate(
        &["ledger", "backup"],
        std::process::Stdio::null(),
        copy.into(),
    );
    assert!(written.status.success(), "{written:?}");
    assert!(
        String::from_utf8_lossy(&written.stderr).contains("3 requests of 1 users"),
        "{written:?}"
    );
    let left = fs::read_dir(here.join("data")).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("part")
    });
    assert_eq!(left.count(), 0, "nothing stays beside the ledger");

    // Half a copy is none, and leaves what is there alone.
    let whole = fs::read(here.join("copy.db")).unwrap();
    fs::write(here.join("half.db"), &whole[..whole.len() / 2]).unwrap();
    let from = |name: &str| std::process::Stdio::from(fs::File::open(here.join(name)).unwrap());
    let half = tollgate(
        &["ledger", "restore"],
        from("half.db"),
        std::process::Stdio::null(),
    );
    assert_eq!(half.status.code(), Some(1), "{half:?}");
    assert!(!here.join("other/tollgate.db").exists());
    let read = tollgate(
        &["ledger", "restore"],
        from("copy.db"),
        std::process::Stdio::null(),
    );
    assert!(read.status.success(), "{read:?}");
    let usage = ["usage", "--requests", "--json"];
    let other = door.tollgate_with(
        &usage,
        &[("TOLLGATE_STORE__URL", "sqlite:other/tollgate.db")],
    );
    assert_eq!(other.stdout, door.must(&usage));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_well_does_not_log_that_it_was_asked() {
    let door = Door::open(Settings::new()).await;
    door.send(Call::get("/health/ready")).await.expect(200);
    door.send(Call::get("/health/nothing")).await.expect(404);
    door.process.until_it_says("/health/nothing").await;
    assert!(
        !door.process.output().contains("/health/ready"),
        "{}",
        door.process.tail()
    );
    door.close().await;
}

/// What came of one connection.
enum Came {
    Whole,
    /// It could not connect: a proxy tries again.
    Refused,
    /// It could, and then got no whole answer: a proxy may not try again.
    Cut(String),
}

fn one_call(address: std::net::SocketAddr) -> Came {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else {
        return Came::Refused;
    };
    let mut answer = String::new();
    let asked = stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut answer));
    match asked {
        Ok(_) if answer.starts_with("HTTP/1.1 200") => Came::Whole,
        Ok(_) => Came::Cut(answer),
        Err(error) => Came::Cut(error.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_nobody_off_who_has_connected() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    let door = Door::prepare(Settings::new()).await;
    let (mut refused, mut cut) = (0, Vec::new());
    for _ in 0..6 {
        door.start().await;
        let address = door.front.address();
        let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        let came = std::thread::scope(|scope| {
            let call = || {
                let mut came = Vec::new();
                while !over.load(Ordering::Acquire) {
                    came.push(one_call(address));
                    if matches!(came.last(), Some(Came::Refused)) {
                        break;
                    }
                    served.fetch_add(1, Ordering::AcqRel);
                }
                came
            };
            let callers: Vec<_> = (0..16).map(|_| scope.spawn(call)).collect();
            while served.load(Ordering::Acquire) < 200 {
                std::thread::sleep(Duration::from_millis(5));
            }
            door.process.signal("TERM");
            let came: Vec<Came> = callers
                .into_iter()
                .flat_map(|caller| caller.join().unwrap())
                .collect();
            over.store(true, Ordering::Release);
            came
        });
        door.process.exited(Duration::from_secs(15)).await;
        refused += came
            .iter()
            .filter(|came| matches!(came, Came::Refused))
            .count();
        cut.extend(came.into_iter().filter_map(|came| match came {
            Came::Cut(why) => Some(why),
            _ => None,
        }));
    }
    assert!(
        cut.is_empty(),
        "{} were cut off: {:?}",
        cut.len(),
        cut.first()
    );
    assert_eq!(
        refused,
        6 * 16,
        "each caller goes on until it cannot connect"
    );
    door.start().await;
    door.close().await;
}
