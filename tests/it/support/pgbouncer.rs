//! A transaction pooler before a test's Postgres: each transaction may get another connection, of very few.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::postgres::free_port;
use super::postgres::{DATABASE_PASSWORD, Postgres};
use super::tools::Tool;

/// A running pgbouncer; stopped when it is dropped.
pub(crate) struct PgBouncer {
    /// A shell that stops it at the end of its own standard input, also when the test is killed.
    keeper: Child,
    port: u16,
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl PgBouncer {
    /// Pools so many connections to each database of the server.
    pub(crate) async fn start(postgres: &Postgres, connections: u32) -> Self {
        let program = Tool::PgBouncer.expect();
        let port = free_port();
        let users = postgres.put_file(
            "users.txt",
            &format!("\"postgres\" \"{DATABASE_PASSWORD}\"\n"),
        );
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 500\n\
             server_login_retry = 1\n", // 15 s by default, for which it turns everybody away after a crash
            postgres.port(),
            users.display()
        );
        let settings = postgres.put_file("pgbouncer.ini", &settings);
        let mut command = postgres.program(Path::new("/bin/sh"));
        command.args([
            "-c",
            "\"$1\" -q \"$2\" </dev/null & cat >/dev/null; kill -TERM $!; wait",
            "keeper",
        ]);
        command
            .arg(program)
            .arg(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let keeper = command.spawn().unwrap();
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "pgbouncer does not answer"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { keeper, port }
    }

    /// The address for the product.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{DATABASE_PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }
}
