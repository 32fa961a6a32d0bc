//! The ledger over TLS, as `sslmode` and `sslrootcert` say.

use std::path::{Path, PathBuf};

use crate::support::caller::chat;
use crate::support::door::Door;
use crate::support::postgres::Postgres;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// A server whose certificate, for `localhost`, an authority of its own signed; the authority, and a stranger to it.
async fn server() -> (Postgres, PathBuf, PathBuf) {
    let server = Postgres::start(false).await;
    server.create_database("ledger").await;
    let names = server.put_file("names", "subjectAltName=DNS:localhost");
    let script = "set -e
        for ca in ca other; do
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj \"/CN=test $ca\" \
                -keyout $ca.key -out $ca.crt -addext basicConstraints=critical,CA:TRUE
        done
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout s.key -out s.csr
        openssl x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out s.crt
        chmod 600 s.key";
    let output = server
        .program(Path::new("/bin/sh"))
        .args(["-c", script])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let [certificate, key, ca, other] =
        ["s.crt", "s.key", "ca.crt", "other.crt"].map(|name| names.with_file_name(name));
    let settings = format!(
        "alter system set ssl_cert_file = '{}';\nalter system set ssl_key_file = '{}';\nalter system set ssl = on;\n\
         select pg_reload_conf();",
        certificate.display(),
        key.display()
    );
    server.psql("postgres", "postgres", &settings).unwrap();
    (server, ca, other)
}

fn on(server: &Postgres, host: &str, authority: &Path) -> Settings {
    let url = server.url("ledger").replace("127.0.0.1", host);
    let url = format!(
        "{url}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}",
        authority.display()
    );
    Settings::new().env("TOLLGATE_STORE__URL", &url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_over_verified_tls_serves() {
    if !installed(&[Tool::Postgres, Tool::OpenSsl]) {
        return;
    }
    let (server, authority, _) = server().await;
    let door = Door::open(on(&server, "localhost", &authority)).await;
    door.user("alice").ask(chat("a")).await.expect(200);
    let sql = "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid)
               where application_name = 'tollgate'";
    let row = server
        .connect("ledger")
        .await
        .query_typed(sql, &[])
        .await
        .unwrap()
        .remove(0);
    let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        all > 0 && all == encrypted,
        "{encrypted} of {all} connections are encrypted"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_verified_is_refused_and_the_reason_told() {
    if !installed(&[Tool::Postgres, Tool::OpenSsl]) {
        return;
    }
    let (server, authority, other) = server().await;
    for (settings, reason) in [
        (on(&server, "localhost", &other), "UnknownIssuer"),
        (
            on(&server, "db.example.com", &authority),
            "not valid for name",
        ),
    ] {
        let printed = Door::refused_to_start(settings).await;
        let said = &printed.stderr;
        assert_eq!(printed.code, Some(1), "{said}");
        assert!(
            said.contains("certificate") && said.contains(reason),
            "{said}"
        );
    }
}
