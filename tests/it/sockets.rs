//! Started by systemd: a socket that outlives the process, and a word when it serves.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::support::caller::chat;
use crate::support::door::Door;
use crate::support::settings::Settings;

const PATIENCE: Duration = Duration::from_secs(20);

/// Under this wrapper standard input is what systemd hands over: descriptor 3, and the variables that say so.
const HANDED_OVER: &[&str] = &[
    "bash",
    "-c",
    "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
    "bash",
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_it_restarts_on_a_socket_that_systemd_holds() {
    let door = Door::prepare(Settings::new().under(HANDED_OVER)).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    door.start_on(&socket).await;
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = ["alice", "bob", "carol"]
        .map(|name| {
            let (user, stop, served) = (door.user(name), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    // Each call is a connection of its own.
                    user.ask(chat("while it restarts")).await.expect(200);
                    served.fetch_add(1, Ordering::AcqRel);
                }
            })
        })
        .into_iter()
        .collect();
    for _ in 0..3 {
        let before = served.load(Ordering::Acquire);
        while served.load(Ordering::Acquire) < before + 5 {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(door.process.term(PATIENCE).await.success());
        // Nobody accepts now; whoever connects waits.
        sleep(Duration::from_millis(300)).await;
        door.start_on(&socket).await;
    }
    stop.store(true, Ordering::Release);
    for caller in callers {
        caller.await.expect("a caller was refused or cut off");
    }
    assert!(served.load(Ordering::Acquire) >= 15);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_over_and_is_no_socket_is_refused_at_the_start() {
    // Its standard input is /dev/null.
    let printed = Door::refused_to_start(Settings::new().under(HANDED_OVER)).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.stderr.contains("LISTEN_FDS") && printed.stderr.contains("next:"),
        "{printed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_it_serves() {
    // The path of such a socket may have 107 bytes, which a build directory can exceed.
    let path = std::env::temp_dir().join(format!("tollgate-notify-{}", std::process::id()));
    drop(std::fs::remove_file(&path));
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let door = Door::open(Settings::new().env("NOTIFY_SOCKET", path.to_str().unwrap())).await;
    let mut buffer = [0; 64];
    let length = tokio::task::block_in_place(|| notified.recv(&mut buffer)).unwrap();
    assert_eq!(
        std::str::from_utf8(&buffer[..length]).unwrap().trim(),
        "READY=1"
    );
    std::fs::remove_file(&path).unwrap();
    door.close().await;
}
