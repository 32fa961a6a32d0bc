//! The operator's side: commands that act on a running server, reloading, stopping: check 22 of the threats.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Answer, Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::reply::Talk;
use crate::support::settings::Settings;

const PLANS: &str = r#"
[plans.pro]
models = ["gpt-4o-mini", "gpt-4o"]
max_output_tokens = 2000
limits = [{ per = "day", requests = 5000 }]
[plans.guest]
models = ["gpt-4o-mini"]
limits = [{ per = "day", requests = 2 }]
"#;

/// Asks until the answer is as wanted, for at most so long.
async fn soon(user: &User, what: &str, seconds: u64, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = user.ask(chat("is it so yet")).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(seconds),
            "not {what} in {seconds} s: {}",
            answer.text()
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_everybody_at_once_until_it_is_over() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    door.must(&["pause"]);
    soon(&alice, "paused", 3, |answer| answer.status == 503)
        .await
        .refused(503, "paused");
    let served = door.upstream.count();
    alice.ask(chat("a")).await.refused(503, "paused");
    alice.me().await;
    door.restart().await;
    alice.ask(chat("a")).await.refused(503, "paused");
    assert_eq!(door.upstream.count(), served);
    door.must(&["resume"]);
    soon(&alice, "resumed", 3, |answer| answer.status == 200).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_user_is_out_within_seconds_and_nobody_else_is() {
    let door = Door::open(Settings::new()).await;
    let (mallory, bob) = (door.user("mallory"), door.user("bob"));
    mallory.ask(chat("a")).await.expect(200);
    door.must(&["user", "block", &mallory.id.to_string()]);
    soon(&mallory, "blocked", 3, |answer| answer.status == 403)
        .await
        .refused(403, "user_blocked");
    bob.ask(chat("a")).await.expect(200);
    let shown = door.must(&["user", "show", &mallory.id.to_string()]);
    assert!(shown.to_lowercase().contains("blocked"), "{shown}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_given_on_the_command_line_shows_within_seconds() {
    let door = Door::open(Settings::new().with(PLANS)).await;
    let alice = door.user("alice");
    alice.me().await;
    door.must(&["user", "plan", &alice.id.to_string(), "pro"]);
    let begun = Instant::now();
    let mut me = alice.me().await;
    while me["plan"]["name"] != "pro" {
        assert!(begun.elapsed() < Duration::from_secs(3), "{me}");
        sleep(Duration::from_millis(50)).await;
        me = alice.me().await;
    }
    assert_eq!(
        (&me["plan"]["source"], &me["max_output_tokens"]),
        (&json!("local"), &json!(2000))
    );
    let refused = door.tollgate(&["user", "plan", &alice.id.to_string(), "platinum"]);
    assert!(
        refused.code != Some(0) && refused.stderr.contains("platinum"),
        "{refused:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_to_a_smaller_plan_erases_nothing_that_is_used() {
    let door = Door::open(Settings::new().with(PLANS)).await;
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("a")).await.expect(200);
    }
    door.lowers_a_limit();
    door.must(&["user", "plan", &alice.id.to_string(), "guest"]);
    soon(&alice, "on the small plan", 3, |answer| {
        answer.status == 402
    })
    .await
    .refused(402, "quota_exceeded");
    let limit = alice.me().await["limits"][0].clone();
    assert_eq!(
        (&limit["limit"], &limit["remaining"]),
        (&json!(2), &json!(0))
    );
    assert!(limit["used"].as_i64().unwrap() >= 3, "{limit}");
    door.must(&["user", "plan", &alice.id.to_string(), "pro"]);
    soon(&alice, "back on the large plan", 3, |answer| {
        answer.status == 200
    })
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_up_and_a_bad_one_is_not() {
    let settings = Settings::new().with(r#"plans.free.limits = [{ per = "day", requests = 1 }]"#);
    let more = settings
        .clone()
        .with(r#"plans.free.limits = [{ per = "day", requests = 20 }]"#);
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    alice.ask(chat("a")).await.refused(402, "quota_exceeded");
    door.write_settings(&more);
    soon(&alice, "reloaded by itself", 15, |answer| {
        answer.status == 200
    })
    .await;

    for bad in ["plans = 7", "this is no toml", "[server]\nbidn = \"x\"\n"] {
        door.write_file("tollgate.toml", bad);
        door.process.signal("HUP");
        sleep(Duration::from_millis(300)).await;
        assert_eq!(
            alice.me().await["limits"][0]["limit"],
            20,
            "{bad:?} was taken up"
        );
    }
    let output = door.process.output().to_lowercase();
    assert!(
        output.contains("tollgate.toml") && output.contains("bidn"),
        "a bad file is told of"
    );

    door.write_settings(&more.with(r#"plans.free.limits = [{ per = "day", requests = 30 }]"#));
    door.process.signal("HUP");
    let begun = Instant::now();
    while alice.me().await["limits"][0]["limit"] != 30 {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "a good file is not taken up after bad ones"
        );
        sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_empty_for_a_moment_or_written_slowly_never_opens_the_limits() {
    let limits = |requests: u32| {
        Settings::new().with(&format!(
            r#"plans.free.limits = [{{ per = "day", requests = {requests} }}]"#
        ))
    };
    let door = Door::open(limits(1)).await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    let file = door.directory().join("tollgate.toml");
    let whole = std::fs::read_to_string(&file).unwrap();
    door.write_file("tollgate.toml", "");
    for asked in [false, true] {
        if asked {
            door.process.signal("HUP");
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            alice.ask(chat("a")).await.refused(402, "quota_exceeded");
            sleep(Duration::from_millis(50)).await;
        }
    }
    std::fs::remove_file(&file).unwrap();
    sleep(Duration::from_millis(1500)).await;
    alice.ask(chat("a")).await.refused(402, "quota_exceeded");
    // A file that grows: what is there is good TOML at any time, and has no limit until its end.
    let head = whole.split_once("limits").unwrap().0;
    let mut grown = head.to_owned();
    for _ in 0..30 {
        grown.push_str("# still writing\n");
        door.write_file("tollgate.toml", &grown);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(
            alice.me().await["limits"][0]["limit"],
            1,
            "half a file was taken up"
        );
    }
    door.write_settings(&limits(20));
    soon(&alice, "reloaded once it stays as it is", 15, |answer| {
        answer.status == 200
    })
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_open_streams_alone_and_prices_what_comes_next() {
    let settings = Settings::new();
    let door = Door::open(settings.clone()).await;
    door.upstream.always(|seen| {
        Talk::words(10)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut open = alice.open(chat_stream("a")).await;
    open.take(2).await;
    door.write_settings(
        &settings.with("[prices.\"gpt-4o-mini\"]\ninput = \"0.15\"\noutput = \"60.00\"\n"),
    );
    door.process.signal("HUP");
    sleep(Duration::from_millis(500)).await;
    let first = door.row(&open.rest().await).await;
    assert!(
        first.cost() < 30,
        "an open stream is settled at the price it was held at: {first:?}"
    );
    let second = door.row(&alice.ask(chat_stream("b")).await).await;
    assert!(second.cost() >= 600, "the new price: {second:?}");
    // The oracle knows one price only, so what it must agree to here is what was asserted above.
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_open_streams_finish_and_takes_nobody_new() {
    let door = Door::open(Settings::new()).await;
    door.upstream.always(|seen| {
        Talk::words(10)
            .every(Duration::from_millis(150))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut open = alice.open(chat_stream("a")).await;
    open.take(2).await;
    door.process.signal("TERM");
    sleep(Duration::from_millis(400)).await;
    let late = alice.try_ask(chat("late")).await;
    assert!(
        late.is_err() || late.as_ref().is_ok_and(|answer| answer.status == 503),
        "{late:?}"
    );
    let answer = open.rest().await;
    assert_eq!(
        (answer.said(), answer.events().last().unwrap().as_str()),
        (" alpha".repeat(10), "[DONE]")
    );
    let status = door.process.exited(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0));
    let row = door.row(&answer).await;
    assert_eq!(
        (row.state.as_str(), row.output_tokens, row.has("estimated")),
        ("settled", Some(10), false),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_cuts_and_settles_what_outlasts_the_grace() {
    let door = Door::open(Settings::new().with(r#"server.shutdown_grace = "1s""#)).await;
    door.upstream.always(|seen| {
        Talk::words(900)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let mut open = door.user("alice").open(chat_stream("a")).await;
    open.take(3).await;
    let begun = Instant::now();
    let status = door.process.term(Duration::from_secs(10)).await;
    assert!(
        status.code() == Some(0) && begun.elapsed() >= Duration::from_millis(900),
        "{status} in {:?}",
        begun.elapsed()
    );
    let answer = open.rest().await;
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    let row = door.ledger_rows().remove(0);
    assert!(
        row.state == "settled" && row.has("estimated") && row.cost() > 0,
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_nothing() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("a")).await.expect(200);
    }
    door.quiet_rows().await;
    let before = alice.me().await;
    door.restart().await;
    assert_eq!(alice.me().await["limits"], before["limits"]);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_command_tells_rows_and_sums() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let answer = alice
        .ask(and(chat("a"), &json!({"model": "gpt-4o"})))
        .await
        .expect(200);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.user_id, row.state.as_str(), row.model.as_deref()),
        (alice.id, "settled", Some("gpt-4o"))
    );
    assert_eq!(
        (row.upstream.as_deref(), row.endpoint.as_deref()),
        (Some("openai"), Some("/v1/chat/completions"))
    );
    assert_eq!(
        (row.cached_input_tokens, row.reasoning_tokens),
        (Some(0), Some(0))
    );
    assert!(row.held_micros.unwrap() > row.cost() && row.ended_at.is_some());
    let plain = door.must(&["usage"]);
    assert!(plain.contains("gpt-4o"), "{plain}");
    assert!(!door.must(&["usage", "--requests"]).is_empty());
    for line in door.must(&["usage", "--json"]).lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_token_is_bare_on_stdout_and_works() {
    let door = Door::open(Settings::new().with(PLANS)).await;
    let id = door.user("alice").id.to_string();
    let token = door.must(&["token", "--user", &id, "--plan", "pro", "--expires", "1h"]);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let me = door
        .send(Call::get("/api/me").bearer(token.trim()))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&me["user"]["id"], &me["plan"]["name"]),
        (&json!(id), &json!("pro"))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_how_they_ended() {
    let door = Door::open(Settings::new()).await;
    assert_eq!(door.tollgate(&["health"]).code, Some(0));
    assert_eq!(door.tollgate(&["check"]).code, Some(0));
    assert_eq!(door.tollgate(&["--help"]).code, Some(0));
    assert!(
        door.must(&["--version"])
            .contains(env!("CARGO_PKG_VERSION"))
    );
    for wrong in [
        &["nonsense"][..],
        &["serve", "--no-such-flag"],
        &["user", "show"],
        &["user", "block", "not-a-uuid"],
        &["token"],
    ] {
        assert_eq!(door.tollgate(wrong).code, Some(2), "tollgate {wrong:?}");
    }
    let missing = door.tollgate(&["check", "--config", "no-such-file.toml"]);
    assert!(
        missing.code == Some(1) && missing.stderr.contains("no-such-file.toml"),
        "{missing:?}"
    );
    door.process.term(Duration::from_secs(10)).await;
    assert_eq!(door.tollgate(&["health"]).code, Some(1));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_itself_once_without_any_setting() {
    let door = Door::open(Settings::new()).await;
    let port = free_port().to_string();
    let printed = door.bare(&["demo", "--once", "--port", &port]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed.stdout.contains("curl") && printed.stdout.contains('$'),
        "{printed:?}"
    );
    assert!(
        printed
            .stdout
            .contains("The operator's page is http://127.0.0.1:"),
        "{printed:?}"
    );
    // The code for an app is that of this server and this user, and nothing in it is left to fill in.
    let token = printed.stdout.split_once("export TOKEN=").unwrap().1;
    let token = token.split_whitespace().next().unwrap();
    for client in [
        format!("TollgateClient(URL(string: \"http://localhost:{port}\")!) {{ _ in \"{token}\" }}"),
        format!("new TollgateClient(\"http://localhost:{port}\", () => \"{token}\");"),
    ] {
        assert!(printed.stdout.contains(&client), "{client}: {printed:?}");
    }
    door.close().await;
}

/// One `GET` of somebody else's server: the status line, and the rest.
fn get(address: &str, path: &str, token: Option<&str>) -> (String, String) {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let bearer = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{bearer}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (status, rest) = answer.split_once("\r\n").unwrap();
    (status.to_owned(), rest.to_owned())
}

/// Found by chaos seed 170: a process that was still waiting for its Postgres ended at a SIGHUP.
#[test]
fn a_reload_that_comes_while_the_ledger_is_being_opened_ends_nothing() {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::process::ExitStatusExt;
    let folder = std::env::temp_dir().join(format!("tollgate-early-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    // Takes connections and says nothing.
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let (bind, url) = (
        format!("127.0.0.1:{}", free_port()),
        format!("postgres://a:b@{}/c", database.local_addr().unwrap()),
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("serve").env_clear().current_dir(&folder);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("said")).unwrap());
    command
        .env("OPENAI_API_KEY", "sk-early")
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    command
        .env("DATABASE_URL", &url)
        .env("TOLLGATE_SERVER__BIND", &bind)
        .env("TOLLGATE_SERVER__ADMIN_BIND", "");
    let mut server = command.spawn().unwrap();
    let begun = Instant::now();
    while TcpStream::connect(&bind).is_err() {
        let said = std::fs::read_to_string(folder.join("said")).unwrap();
        assert!(
            server.try_wait().unwrap().is_none() && begun.elapsed().as_secs() < 60,
            "{said}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let hangup = std::process::Command::new("sh")
        .args(["-c", &format!("kill -HUP {}", server.id())])
        .status()
        .unwrap();
    assert!(hangup.success());
    std::thread::sleep(Duration::from_millis(300));
    let ended = server
        .try_wait()
        .unwrap()
        .and_then(|status| status.signal());
    server.kill().ok();
    server.wait().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ended, None, "the signal that ended it");
}

/// A `tollgate demo` in a folder of its own. Ends with its owner.
struct Demo {
    folder: std::path::PathBuf,
    process: std::process::Child,
}

impl Demo {
    fn begin() -> Self {
        let folder = std::env::temp_dir().join(format!("tollgate-demo-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let said = std::fs::File::create(folder.join("said")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .args(["demo", "--port", &free_port().to_string()])
            .env_clear()
            .current_dir(&folder);
        command
            .stdin(Stdio::null())
            .stderr(said.try_clone().unwrap())
            .stdout(said);
        Self {
            process: command.spawn().unwrap(),
            folder,
        }
    }

    /// Where its operator's page is, and the token for it, once it has told them.
    async fn page(&self) -> (String, String) {
        let mut text = String::new();
        for _ in 0..600 {
            text = std::fs::read_to_string(self.folder.join("said")).unwrap();
            if text.contains("Ctrl-C stops") {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let (_, page) = text
            .split_once("The operator's page is http://")
            .unwrap_or_else(|| panic!("{text}"));
        let mut words = page.split_whitespace();
        let address = words.next().unwrap().trim_end_matches(';').to_owned();
        let token = words
            .skip_while(|word| *word != "with")
            .nth(1)
            .unwrap()
            .to_owned();
        (address, token)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop((
            self.process.kill(),
            self.process.wait(),
            std::fs::remove_dir_all(&self.folder),
        ));
    }
}

/// Three begin together: in a run of CI two saw the same port free, and one told the other's page.
#[tokio::test(flavor = "multi_thread")]
async fn the_demos_operators_page_is_there_and_wants_its_token() {
    let demos = [Demo::begin(), Demo::begin(), Demo::begin()];
    for demo in &demos {
        let (address, token) = demo.page().await;
        let (status, html) = get(&address, "/", None);
        assert!(
            status.contains("200") && html.contains("<html"),
            "{status}: {html}"
        );
        let (status, overview) = get(&address, "/admin/overview", Some(&token));
        assert!(
            status.contains("200") && overview.contains("\"upstreams\""),
            "{status}: {overview}"
        );
        for wrong in [None, Some("another")] {
            let (status, _) = get(&address, "/admin/overview", wrong);
            assert!(status.contains("401"), "{wrong:?}: {status}");
        }
    }
}
