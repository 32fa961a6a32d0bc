//! TLS towards everybody whom the product asks: who cannot prove who they are is told nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use serde_json::json;

use crate::support::caller::{chat, chat_stream};
use crate::support::door::Door;
use crate::support::keys::Key;
use crate::support::settings::Settings;
use crate::support::tokens::{sign, with};
use crate::support::tools::{Tool, installed};

/// Certificates for 127.0.0.1: one of an authority that nobody knows, and one that vouches for itself.
fn certificates(directory: &Path) {
    let script = "set -e
        new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $new -days 2 -subj '/CN=unknown authority' -keyout ca.key -out ca.crt \
            -addext basicConstraints=critical,CA:TRUE
        openssl req $new -subj /CN=localhost -keyout signed.key -out signed.csr
        echo 'subjectAltName=IP:127.0.0.1' >names
        openssl x509 -req -in signed.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out signed.crt
        openssl req -x509 $new -days 2 -subj /CN=localhost -keyout itself.key -out itself.crt \
            -addext subjectAltName=IP:127.0.0.1";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What came of one connection: the bytes, or why there were none.
type Heard = Result<Vec<u8>, String>;

/// An https server that reads what comes once it is trusted, and keeps it; or why it was not.
struct Impostor {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Impostor {
    fn with(certificate: &Path) -> Self {
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate.with_extension("key")).unwrap();
        let config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, stopped) = (Arc::default(), Arc::default());
        let impostor = Self {
            port,
            heard,
            stopped,
        };
        let (heard, stopped) = (impostor.heard.clone(), impostor.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                let mut stream =
                    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer);
                let got = read
                    .map(|count| buffer[..count].to_vec())
                    .map_err(|error| error.to_string());
                heard.lock().unwrap().push(got);
            }
        });
        impostor
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Somebody who knows the authority is heard: so would be whoever did not look.
    fn hears_who_trusts(&self, authority: &Path) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut stream = StreamOwned::new(
            ClientConnection::new(Arc::new(config), name).unwrap(),
            stream,
        );
        stream.write_all(b"trusted").unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "it only listens");
        assert_eq!(self.heard().last(), Some(&Ok(b"trusted".to_vec())));
    }

    /// It was dialled, and was told that it is not trusted and nothing else.
    #[track_caller]
    fn was_turned_away(&self, what: &str) {
        let heard = self.heard();
        assert!(!heard.is_empty(), "{what}: it was not even dialled");
        let is_alert = |one: &Heard| one.as_ref().is_err_and(|error| error.contains("alert"));
        assert!(heard.iter().all(is_alert), "{what}: {heard:?}");
    }
}

fn impostors(door: &Door) -> Vec<(PathBuf, Impostor)> {
    certificates(door.directory());
    let paths = ["signed.crt", "itself.crt"].map(|name| door.directory().join(name));
    paths
        .map(|path| (path.clone(), Impostor::with(&path)))
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_cannot_prove_who_it_is_gets_no_request_and_costs_nothing() {
    if !installed(&[Tool::OpenSsl]) {
        return;
    }
    let mut door = Door::prepare(Settings::new()).await;
    for (certificate, impostor) in impostors(&door) {
        door.moves_to(
            "OPENAI_BASE_URL",
            &format!("https://127.0.0.1:{}/v1", impostor.port),
        );
        door.start().await;
        let alice = door.user("alice");
        for body in [chat("a"), chat_stream("a")] {
            alice.ask(body).await.refused(503, "upstream_unavailable");
        }
        impostor.was_turned_away(&certificate.display().to_string());
        if certificate.ends_with("signed.crt") {
            impostor.hears_who_trusts(&certificate.with_file_name("ca.crt"));
        }
        let rows = door.quiet_rows().await;
        assert!(
            rows.iter()
                .all(|row| row.state == "voided" && row.cost() == 0),
            "{rows:?}"
        );
        let me = alice.me().await;
        let is_untouched =
            |limit: &serde_json::Value| limit["used"] == 0 || limit["used"] == "0.000000";
        assert!(
            me["limits"].as_array().unwrap().iter().all(is_untouched),
            "{me}"
        );
        door.process.term(Duration::from_secs(20)).await;
    }
    assert_eq!(door.upstream.count(), 0);
    door.start().await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_cannot_prove_who_it_is_vouches_for_nobody_and_gets_no_key() {
    if !installed(&[Tool::OpenSsl]) {
        return;
    }
    let mut door = Door::prepare(Settings::new()).await;
    for (certificate, impostor) in impostors(&door) {
        let url = format!("https://127.0.0.1:{}", impostor.port);
        door.moves_to("SUPABASE_URL", &url);
        door.start().await;
        let claims = with(
            door.claims("alice"),
            &json!({"iss": format!("{url}/auth/v1")}),
        );
        for (key, code) in [
            (Key::es256("k1"), "auth_unavailable"),
            (Key::hs256(door.jwt_secret()), "directory_unavailable"),
        ] {
            let call = crate::support::caller::Call::post("/v1/chat/completions", &chat("a"));
            door.send(call.bearer(&sign(&key, &claims)))
                .await
                .refused(503, code);
        }
        impostor.was_turned_away(&certificate.display().to_string());
        door.process.term(Duration::from_secs(20)).await;
    }
    assert_eq!(door.upstream.connections(), 0);
    let own = door.supabase.url().to_owned();
    door.moves_to("SUPABASE_URL", &own);
    door.start().await;
    door.close().await;
}
