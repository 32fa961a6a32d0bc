//! `tollgate health`: asks a running server whether it is ready; for Docker and for people.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use serde_json::Value;

use super::{CommandError, print};
use crate::config::Sources;
use crate::http_client::HttpClient;

/// How long the whole question may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const PATH: &str = "/health/ready";

/// Ask a running server whether it is ready
///
/// Exits with 0 if it is, and with 1 if it is not or does not answer within 3 seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate health
  tollgate health --url http://tollgate.internal:8080")]
pub(super) struct HealthArgs {
    /// The server. Default: the one in the settings, on this machine
    #[arg(long)]
    url: Option<Uri>,
}

/// Prints the parts of the server and whether each is well.
pub(super) async fn run(args: &HealthArgs, sources: &Sources) -> Result<(), CommandError> {
    let uri = on_server(args.url.as_ref(), &sources.bind(), PATH)?;
    let (status, answer) = tokio::time::timeout(TIMEOUT, ask(uri.clone()))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} seconds", TIMEOUT.as_secs())))
        .map_err(|problem| {
            CommandError::new(
                format!("{uri}: {problem}"),
                "start it with `tollgate serve`, or say where it is with --url",
            )
        })?;
    for line in lines(&answer) {
        print::line(&line)?;
    }
    if status == StatusCode::OK {
        return Ok(());
    }
    Err(CommandError::new(
        format!("{uri}: not ready ({status})"),
        "look at the parts marked ✗, and at the server's log",
    ))
}

/// A path of a server: of the one at `url`, or of the one that listens on `bind`, from this machine.
pub(super) fn on_server(
    url: Option<&Uri>,
    bind: &str,
    path: &'static str,
) -> Result<Uri, CommandError> {
    match url {
        Some(url) => at_server(url, path),
        None => own(bind, path),
    }
}

fn at_server(url: &Uri, path: &'static str) -> Result<Uri, CommandError> {
    let next = || "write it like --url http://127.0.0.1:8080 (no https: ask the server itself, not its proxy)";
    let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
    let Some(authority) = authority else {
        return Err(CommandError::new(
            format!("{url} is no http:// URL"),
            next(),
        ));
    };
    let built = Uri::builder()
        .scheme("http")
        .authority(authority.as_str())
        .path_and_query(path)
        .build();
    built.map_err(|error| CommandError::new(format!("{url}: {error}"), next()))
}

fn own(bind: &str, path: &'static str) -> Result<Uri, CommandError> {
    let authority = match bind.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => bind.to_owned(),
    };
    let built = Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query(path)
        .build();
    built.map_err(|error| {
        CommandError::new(
            format!("server.bind: {error}"),
            "say where the server is with --url",
        )
    })
}

async fn ask(uri: Uri) -> Result<(StatusCode, Bytes), String> {
    let client = HttpClient::new(ANSWER_BYTES_MAX, 0).map_err(|error| error.to_string())?;
    let request = Request::get(uri).body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = client.send(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = client.read(answer.into_body()).await;
    Ok((status, body.map_err(|error| error.to_string())?))
}

/// One line a part; nothing if the answer is not Tollgate's.
fn lines(answer: &[u8]) -> Vec<String> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let mut lines = Vec::new();
    collect("", answer.get("parts").unwrap_or(&Value::Null), &mut lines);
    lines
}

/// A part has an `ok`; what has none is a group of parts. The answer comes from a network: its names are escaped.
fn collect(path: &str, value: &Value, lines: &mut Vec<String>) {
    let Some(members) = value.as_object() else {
        return;
    };
    if let Some(ok) = members.get("ok").and_then(Value::as_bool) {
        let rest: Vec<String> = members
            .iter()
            .filter(|(name, value)| *name != "ok" && !value.is_null())
            .map(|(name, value)| format!(" {}={value}", name.escape_debug()))
            .collect();
        lines.push(format!(
            "{} {path}{}",
            if ok { "✓" } else { "✗" },
            rest.concat()
        ));
        return;
    }
    for (name, value) in members {
        let name = name.escape_debug();
        let path = if path.is_empty() {
            name.to_string()
        } else {
            format!("{path}.{name}")
        };
        collect(&path, value, lines);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks a server that answers one request with `status` and `body`.
    async fn asked(status: &str, body: &str) -> Result<(), CommandError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let read = socket.read(&mut head).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head[..read].to_vec()).unwrap()
        };
        let args = HealthArgs {
            url: Some(url.parse().unwrap()),
        };
        let sources = Sources::default();
        let (result, head) = tokio::join!(run(&args, &sources), serve);
        assert!(head.starts_with("GET /health/ready HTTP/1.1\r\n"), "{head}");
        result
    }

    #[tokio::test]
    async fn a_ready_server_is_success_and_any_other_answer_is_failure() {
        assert_eq!(
            asked(
                "200 OK",
                r#"{"status":"ready","parts":{"store":{"ok":true}}}"#
            )
            .await,
            Ok(())
        );
        let told = asked(
            "503 Service Unavailable",
            r#"{"parts":{"store":{"ok":false}}}"#,
        )
        .await
        .unwrap_err();
        assert!(told.problem.contains("not ready (503"), "{told}");
        assert!(asked("404 Not Found", "<html>").await.is_err());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_never_answers_is_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let args = HealthArgs {
            url: Some(
                format!("http://{}", listener.local_addr().unwrap())
                    .parse()
                    .unwrap(),
            ),
        };
        let sources = Sources::default();
        let begun = std::time::Instant::now();
        let told = run(&args, &sources).await.unwrap_err();
        assert!(
            told.problem.contains("within 3 seconds") && begun.elapsed() < Duration::from_secs(6),
            "{told}"
        );
        drop(listener);
        let told = run(&args, &sources).await.unwrap_err();
        assert!(
            told.problem.contains("refused") && told.next.contains("tollgate serve"),
            "{told}"
        );
    }

    #[test]
    fn the_own_server_is_asked_on_this_machine() {
        let own = |bind| own(bind, PATH).unwrap().to_string();
        assert_eq!(own("0.0.0.0:8080"), "http://127.0.0.1:8080/health/ready");
        assert_eq!(own("[::]:80"), "http://[::1]:80/health/ready");
        assert_eq!(own("10.0.0.7:1"), "http://10.0.0.7:1/health/ready");
        assert!(at_server(&"https://x/".parse().unwrap(), PATH).is_err());
    }

    #[test]
    fn parts_are_listed_and_cannot_write_to_the_terminal() {
        let answer = r#"{"parts":{"store":{"ok":true,"path":null},"upstreams":{"openai":{"ok":false,"last":"a\u001bb"}},"\u001b[2J":{"ok":true}}}"#;
        let lines = lines(answer.as_bytes());
        assert!(lines.contains(&"✓ store".to_owned()), "{lines:?}");
        assert!(
            lines.contains(&"✗ upstreams.openai last=\"a\\u001bb\"".to_owned()),
            "{lines:?}"
        );
        assert!(
            lines.iter().all(|line| !line.contains('\u{1b}')),
            "{lines:?}"
        );
    }
}
