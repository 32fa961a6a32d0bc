//! The way to an upstream: a proxy, an authority of a private network, headers of a gateway.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::caller::{chat, chat_stream};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// `proxy-user` and `proxy-canary`, as `Proxy-Authorization` has them.
const AUTHORIZATION: &str = "Basic cHJveHktdXNlcjpwcm94eS1jYW5hcnk=";

/// The first line of a request, and its authorization.
type Said = (String, Option<String>);

/// A proxy that opens ways, and forwards what is addressed to it whole; it notes the first line and the authorization.
struct HttpProxy {
    port: u16,
    seen: Arc<Mutex<Vec<Said>>>,
    listening: JoinHandle<()>,
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl HttpProxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let noted = seen.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, noted.clone()));
            }
        });
        Self {
            port,
            seen,
            listening,
        }
    }

    fn url(&self) -> String {
        format!("http://proxy-user:proxy-canary@127.0.0.1:{}", self.port)
    }

    fn seen(&self) -> Vec<Said> {
        self.seen.lock().unwrap().clone()
    }
}

async fn forward(mut stream: TcpStream, noted: Arc<Mutex<Vec<Said>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let (first, rest) = head.split_once("\r\n").unwrap();
    let authorization = rest
        .lines()
        .find_map(|line| line.strip_prefix("proxy-authorization: "));
    let authorization = authorization.or_else(|| {
        rest.lines()
            .find_map(|line| line.strip_prefix("Proxy-Authorization: "))
    });
    noted
        .lock()
        .unwrap()
        .push((first.to_owned(), authorization.map(str::to_owned)));
    if authorization != Some(AUTHORIZATION) {
        let _ = stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            .await;
        return;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    if method == "CONNECT" {
        // A name that only the proxy knows.
        let to = target.replace("upstream.test", "127.0.0.1");
        let Ok(mut there) = TcpStream::connect(to).await else {
            return;
        };
        stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await
            .unwrap();
        let _ = copy_bidirectional(&mut stream, &mut there).await;
        return;
    }
    let (host, path) = target
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let Ok(mut there) = TcpStream::connect(host).await else {
        return;
    };
    let rest: String = rest
        .split_inclusive("\r\n")
        .filter(|line| !line.to_lowercase().starts_with("proxy-"))
        .collect();
    there
        .write_all(format!("{method} /{path} HTTP/1.1\r\n{rest}").as_bytes())
        .await
        .unwrap();
    let _ = copy_bidirectional(&mut stream, &mut there).await;
}

/// A server with TLS in front of the fake upstream; `names` are what its certificate is for.
async fn tls(door: &Door, names: &str) -> (u16, JoinHandle<()>) {
    let directory = door.directory();
    let script = format!(
        "set -e
        new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $new -days 2 -subj '/CN=private authority' -keyout ca.key -out ca.pem \
            -addext basicConstraints=critical,CA:TRUE
        openssl req $new -subj /CN=server -keyout server.key -out server.csr
        echo 'subjectAltName={names}' >names
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(directory)));
    let behind = door
        .upstream
        .base_url()
        .split('/')
        .nth(2)
        .unwrap()
        .to_owned();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut there = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut there).await;
            });
        }
    });
    (port, serving)
}

fn server_config(directory: &Path) -> ServerConfig {
    let chain = vec![CertificateDer::from_pem_file(directory.join("server.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(default_provider().into());
    config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

fn upstream(base_url: &str, more: &str) -> Settings {
    Settings::new().with(&format!(
        "[[upstreams]]\nname = \"gateway\"\nbase_url = {base_url:?}\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\n{more}\n"
    ))
}

async fn is_served(door: &Door) {
    for body in [chat("a"), chat_stream("a")] {
        let answer = door.user("alice").ask(body).await.expect(200);
        assert_eq!(door.row(&answer).await.output_tokens, Some(5));
    }
}

/// The proxy's password is in nothing that was printed.
fn shows_no_password(door: &Door) {
    for arguments in [&["check"][..], &["doctor"]] {
        let printed = door.tollgate(arguments);
        assert!(
            !format!("{}{}", printed.stdout, printed.stderr).contains("proxy-canary"),
            "{arguments:?}"
        );
    }
    assert!(!door.process.output().contains("proxy-canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_private_authority_is_trusted_by_its_file_and_by_nothing_else() {
    if !installed(&[Tool::OpenSsl]) {
        return;
    }
    let door = Door::prepare(Settings::new()).await;
    let (port, serving) = tls(&door, "IP:127.0.0.1").await;
    let url = format!("https://127.0.0.1:{port}/v1");
    door.write_settings(&upstream(&url, ""));
    door.start().await;
    door.user("alice")
        .ask(chat("a"))
        .await
        .refused(503, "upstream_unavailable");
    assert!(
        door.tollgate(&["doctor"]).stdout.contains("ca_file"),
        "doctor says what to write"
    );
    door.process.term(Duration::from_secs(10)).await;
    door.write_settings(&upstream(&url, "ca_file = \"ca.pem\""));
    door.start().await;
    is_served(&door).await;
    assert!(!door.tollgate(&["doctor"]).stdout.contains("ca_file"));
    serving.abort();
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_upstream_is_reached_through_a_proxy_that_only_opens_the_way() {
    if !installed(&[Tool::OpenSsl]) {
        return;
    }
    let proxy = HttpProxy::start().await;
    for by_variable in [false, true] {
        let said = if by_variable {
            String::new()
        } else {
            format!("proxy = {:?}", proxy.url())
        };
        let settings = if by_variable {
            Settings::new().env("HTTPS_PROXY", &proxy.url())
        } else {
            Settings::new()
        };
        let door = Door::prepare(settings).await;
        let (port, serving) = tls(&door, "DNS:upstream.test").await;
        let url = format!("https://upstream.test:{port}/v1");
        door.write_settings(&upstream(&url, &format!("ca_file = \"ca.pem\"\n{said}")));
        door.start().await;
        is_served(&door).await;
        let (first, authorization) = proxy.seen().pop().unwrap();
        assert_eq!(first, format!("CONNECT upstream.test:{port} HTTP/1.1"));
        assert_eq!(authorization.as_deref(), Some(AUTHORIZATION));
        assert!(
            door.upstream
                .last()
                .seen
                .request
                .header("proxy-authorization")
                .is_none()
        );
        shows_no_password(&door);
        serving.abort();
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_upstream_is_forwarded_to_by_its_whole_address() {
    let proxy = HttpProxy::start().await;
    // Each request has its own connection, as this proxy forwards one on each.
    let door = Door::open(upstream(
        "{upstream}",
        &format!("keep_alive = \"0s\"\nproxy = {:?}", proxy.url()),
    ))
    .await;
    is_served(&door).await;
    let seen = proxy.seen();
    assert_eq!(
        seen[0].0,
        format!(
            "POST {}/chat/completions HTTP/1.1",
            door.upstream.base_url()
        )
    );
    assert_eq!(seen[0].1.as_deref(), Some(AUTHORIZATION));
    shows_no_password(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_is_for_https_only_and_not_for_hosts_that_it_excepts() {
    if !installed(&[Tool::OpenSsl]) {
        return;
    }
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let door = Door::open(upstream("{upstream}", "").env("HTTPS_PROXY", &nowhere)).await;
    is_served(&door).await;
    door.close().await;
    for (name, value) in [
        ("NO_PROXY", "127.0.0.0/8"),
        ("no_proxy", "*"),
        ("NO_PROXY", "a.example,127.0.0.1"),
    ] {
        let door = Door::prepare(
            Settings::new()
                .env("HTTPS_PROXY", &nowhere)
                .env(name, value),
        )
        .await;
        let (port, serving) = tls(&door, "IP:127.0.0.1").await;
        door.write_settings(&upstream(
            &format!("https://127.0.0.1:{port}/v1"),
            "ca_file = \"ca.pem\"",
        ));
        door.start().await;
        is_served(&door).await;
        serving.abort();
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_says_nothing_costs_nothing_and_keeps_nobody_waiting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = HttpProxy::start().await;
    let wrong = format!("http://proxy-user:wrong@127.0.0.1:{}", proxy.port);
    for way in [format!("http://{}", silent.local_addr().unwrap()), wrong] {
        let door = Door::open(upstream(
            "https://upstream.test/v1",
            &format!("proxy = {way:?}"),
        ))
        .await;
        let begun = std::time::Instant::now();
        for body in [chat("a"), chat_stream("a")] {
            door.user("alice")
                .ask(body)
                .await
                .refused(503, "upstream_unavailable");
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        assert!(
            door.quiet_rows()
                .await
                .iter()
                .all(|row| row.state == "voided")
        );
        let doctor = door.tollgate(&["doctor"]).stdout;
        assert!(
            doctor.contains("proxy") || doctor.contains("no answer"),
            "{doctor}"
        );
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_gateway_are_sent_with_every_request_and_shown_to_nobody() {
    let door = Door::open(upstream(
        "{upstream}",
        "headers = { \"HTTP-Referer\" = \"https://app.example\", \"X-Gateway-Key\" = \"gateway-canary-1\" }",
    ))
    .await;
    is_served(&door).await;
    let request = door.upstream.last().seen.request.clone();
    assert_eq!(request.all("http-referer"), ["https://app.example"]);
    assert_eq!(request.all("x-gateway-key"), ["gateway-canary-1"]);
    assert_eq!(request.all("authorization").len(), 1);
    door.upstream.always(|_| {
        crate::support::reply::Reply::error(400, "x", "The key gateway-canary-1 is old.")
    });
    let told = door.user("alice").ask(chat("a")).await.expect(400);
    assert!(!told.text().contains("canary"), "{}", told.text());
    for arguments in [&["check"][..], &["doctor"]] {
        let printed = door.tollgate(arguments);
        assert!(
            !format!("{}{}", printed.stdout, printed.stderr).contains("gateway-canary"),
            "{arguments:?}"
        );
    }
    assert!(!door.process.output().contains("gateway-canary"));
    door.close().await;
}
