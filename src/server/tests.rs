//! At the door: a server on port 0, callers that write bytes, and what is left behind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;
use uuid::Uuid;

use super::{listen, serve};
use crate::app::App;
use crate::auth::{MintClaims, mint};
use crate::clock::Clock;
use crate::config::{Config, DemoUpstream, OnDisconnect};
use crate::endpoint;
use crate::ledger::Failure;
use crate::ledger::read::report::{ReportRange, Reports, RequestRow};
use crate::server::routes::{described, router};

struct Door {
    address: SocketAddr,
    app: Arc<App>,
    token: String,
    stop: CancellationToken,
    folder: PathBuf,
}

impl Door {
    /// A server whose upstream is at `upstream`.
    async fn open(upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let demo = DemoUpstream {
            url: Some(format!("http://{upstream}/v1")),
            ..DemoUpstream::default()
        };
        let mut config = Config::for_demo(("127.0.0.1:0", ""), &demo).unwrap();
        let folder = std::env::temp_dir().join(format!("tollgate-door-{}", Uuid::now_v7()));
        config.store.url = crate::config::StoreUrl::Sqlite(folder.join("ledger.db"));
        config.server.shutdown_grace = Duration::from_secs(1);
        change(&mut config);
        let secret = config.auth.jwt_secret.clone().unwrap();
        let claims = MintClaims {
            user_id: Uuid::from_u128(7),
            plan: None,
            email: None,
            is_anonymous: false,
            expires_in: Duration::from_mins(5),
            issuer: "",
        };
        let token = mint(&secret, claims, Clock::system().now()).unwrap();
        let listener = listen(&config.server.bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (app, writer) = App::open(config, Clock::system()).unwrap();
        let stop = CancellationToken::new();
        #[allow(clippy::disallowed_methods, reason = "it ends with `stop`")]
        tokio::spawn(serve(app.clone(), writer, listener, stop.clone()));
        Self {
            address,
            app,
            token,
            stop,
            folder,
        }
    }

    /// A request's head, with the user's token and more header lines.
    fn head(&self, line: &str, more: &str) -> String {
        format!(
            "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            self.token
        )
    }

    /// All that is answered to `bytes` on a connection of its own, which the request must ask to be closed.
    async fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.expect("all is taken");
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// The only row of the ledger, once it has ended.
    async fn ended_row(&self) -> RequestRow {
        for _ in 0..400 {
            let reports = Reports::open(self.app.ledger.store()).unwrap();
            let mut rows = Vec::new();
            let keep = |row| {
                rows.push(row);
                Ok::<(), Failure>(())
            };
            reports.requests(ReportRange::default(), keep).unwrap();
            if let [row] = rows.as_slice()
                && row.state != "held"
            {
                return row.clone();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no row has ended");
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

const CLOSE: &str = "Connection: close\r\n";
const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;

#[tokio::test]
async fn a_browser_may_delete_and_read_every_header_of_ours() {
    let door = Door::open(nowhere(), |config| {
        config.server.cors_origins = vec!["*".to_owned()];
    })
    .await;
    let asked = "Origin: https://app.example\r\nAccess-Control-Request-Method: DELETE\r\n";
    let answer = door
        .answer(
            door.head("OPTIONS /api/me", &format!("{CLOSE}{asked}"))
                .as_bytes(),
        )
        .await;
    assert!(
        answer.contains("access-control-allow-methods: GET,POST,DELETE\r\n"),
        "{answer}"
    );
    let answer = door
        .answer(
            door.head(
                "GET /api/me",
                &format!("{CLOSE}Origin: https://app.example\r\n"),
            )
            .as_bytes(),
        )
        .await;
    let exposed = answer
        .lines()
        .find(|line| line.starts_with("access-control-expose-headers"))
        .unwrap_or_default();
    for header in [
        "x-request-id",
        "x-tollgate-error",
        "retry-after",
        "idempotent-replayed",
    ] {
        assert!(exposed.contains(header), "{header}: {answer}");
    }
}

#[tokio::test]
async fn a_model_whose_name_is_no_text_is_refused_in_the_shape_of_all_refusals() {
    let door = Door::open(nowhere(), |_| ()).await;
    let answer = door
        .answer(door.head("GET /v1/models/%ff", CLOSE).as_bytes())
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("x-tollgate-error: invalid_request\r\n")
            && answer.contains(r#""param":"model""#),
        "{answer}"
    );
}

/// Past hyper, which reads a buffer on before it looks at its own bound.
#[tokio::test]
async fn a_head_above_header_bytes_max_is_431_and_one_below_passes() {
    let door = Door::open(nowhere(), |config| {
        config.server.header_bytes_max = 16 * 1024;
    })
    .await;
    for (method, path) in [("GET", "/api/me"), ("POST", "/api/chat")] {
        for (bytes, is_too_large) in [(16 * 1024, true), (15 * 1024, false)] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("x-long", "a".repeat(bytes));
            let Ok(answer) = router(&door.app)
                .call(request.body(Body::empty()).unwrap())
                .await;
            assert_eq!(
                answer.status().as_u16(),
                if is_too_large { 431 } else { 401 },
                "{method} {path} {bytes}"
            );
            let code = answer.headers().get("x-tollgate-error").unwrap();
            assert_eq!(code == "headers_too_large", is_too_large);
            assert!(answer.headers().contains_key("x-request-id"));
        }
    }
}

#[tokio::test]
async fn a_caller_who_is_refused_while_sending_can_finish_and_hears_why() {
    let door = Door::open(nowhere(), |config| {
        config.server.body_bytes_max = 1024 * 1024;
    })
    .await;
    let body = vec![b'a'; 12 * 1024 * 1024];
    let length = format!("{CLOSE}Content-Length: {}\r\n", body.len());
    let too_large = door.head("POST /api/chat", &length);
    let stranger = format!("POST /api/chat HTTP/1.1\r\nHost: x\r\n{length}\r\n");
    for (head, status) in [(too_large, "HTTP/1.1 413 "), (stranger, "HTTP/1.1 401 ")] {
        let answer = door.answer(&[head.as_bytes(), &body].concat()).await;
        assert!(answer.starts_with(status), "{answer}");
    }
}

#[tokio::test]
async fn a_browser_may_send_the_headers_that_openais_client_sends() {
    let door = Door::open(nowhere(), |config| {
        config.server.cors_origins = vec!["https://app.example".to_owned()];
    })
    .await;
    let asked = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\
                 Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n";
    let answer = door
        .answer(
            door.head("OPTIONS /v1/chat/completions", &format!("{CLOSE}{asked}"))
                .as_bytes(),
        )
        .await;
    let allowed = answer
        .lines()
        .find(|line| line.starts_with("access-control-allow-headers"))
        .unwrap_or_default();
    assert!(allowed.contains("x-stainless-os"), "{answer}");
}

/// The upstream has said 400 or 500, the rest of its answer is on its way, and the caller leaves.
#[tokio::test]
async fn a_refusal_by_the_upstream_stays_free_when_the_caller_leaves_before_its_body() {
    for (status, flag) in [(400, "upstream_rejected"), (500, "upstream_failed")] {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let abort = |config: &mut Config| config.proxy.on_disconnect = OnDisconnect::Abort;
        let door = Door::open(upstream.local_addr().unwrap(), abort).await;
        let mut caller = TcpStream::connect(door.address).await.unwrap();
        let head = door.head(
            "POST /api/chat",
            &format!("Content-Length: {}\r\n", CHAT.len()),
        );
        caller
            .write_all(format!("{head}{CHAT}").as_bytes())
            .await
            .unwrap();
        let (mut asked, _) = upstream.accept().await.unwrap();
        let mut seen = vec![0; 64 * 1024];
        assert!(asked.read(&mut seen).await.unwrap() > 0);
        let begun = format!(
            "HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{"
        );
        asked.write_all(begun.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(caller);
        let row = door.ended_row().await;
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            ("voided", 0),
            "{row:?}"
        );
        assert!(row.flags.iter().any(|seen| seen == flag), "{row:?}");
    }
}

#[tokio::test]
async fn a_reload_changes_how_long_an_upstream_is_waited_for() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = Door::open(upstream.local_addr().unwrap(), |_| ()).await;
    let mut new = Config::clone(&door.app.config());
    new.proxy.first_byte_timeout = Duration::from_millis(100);
    door.app.adopt(new);
    let head = door.head(
        "POST /api/chat",
        &format!("{CLOSE}Content-Length: {}\r\n", CHAT.len()),
    );
    let answer = door.answer(format!("{head}{CHAT}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

/// So that an endpoint that is added is served, described and written about before anybody calls it.
#[test]
fn every_endpoint_is_described_in_the_forms_that_it_takes_and_stands_in_the_docs() {
    let document = serde_json::to_value(described()).unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/endpoints.md")).unwrap();
    for spec in endpoint::ALL {
        let mut forms: Vec<_> = spec.bodies.iter().map(|form| form.media_type).collect();
        forms.sort_unstable();
        for path in spec.paths {
            let operation = &document["paths"][path]["post"];
            let content = operation["requestBody"]["content"].as_object();
            let content = content.unwrap_or_else(|| panic!("{path} is not described"));
            let described: Vec<_> = content.keys().collect();
            assert_eq!(described, forms, "{path}");
            // Whatever is paid for may be refused for money, and is.
            assert!(operation["responses"]["402"].is_object(), "{path}");
            assert!(page.contains(&format!("\n| `{path}` |")), "{path}");
        }
    }
}
