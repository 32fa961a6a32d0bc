//! `tollgate demo`: the whole product with nothing installed and nothing configured.
//!
//! It serves with the built-in plan, a secret made for this run, and a model of its own on loopback (or a real one). It
//! prints a token and commands to try, and sends one streamed request through its own listener.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::serve::stop_on_signal;
use super::{CommandError, demo_client, print};
use crate::app::{App, descriptors};
use crate::auth::{MintClaims, mint};
use crate::clock::Clock;
use crate::config::{Config, DemoUpstream, Sources};
use crate::ledger;
use crate::observe::log;
use crate::operator::demo_model;
use crate::server::{Listeners, listen, serve};

/// Who calls in the demo.
const USER: Uuid = Uuid::from_u128(0x0d3e_0d3e_0d3e_4d3e_8d3e_0d3e_0d3e_0d3e);
/// How long the demo's token is valid.
const TOKEN_LIFE: Duration = Duration::from_hours(24);
const QUESTION: &str = "In one sentence: what does a toll gate do?";

/// Look around: the whole product, with nothing to install and nothing to configure
///
/// Serves with the built-in plan, a secret made for this run, and a stand-in model unless `OPENAI_API_KEY` or --upstream
/// gives a real one; sends one streamed request and shows what it cost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate demo
  OPENAI_API_KEY=sk-… tollgate demo --port 9000
  tollgate demo --upstream http://localhost:11434/v1 --model llama3.2")]
pub(super) struct DemoArgs {
    /// The port on which it serves
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// A real model instead of the stand-in: the base URL of a server with OpenAI's API
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The model's name there, if not gpt-6-luna. The demo's plan serves it for free
    #[arg(long, value_name = "NAME", requires = "upstream")]
    model: Option<String>,
    /// Stop after the first request
    #[arg(long)]
    once: bool,
}

/// Runs the demo. `sources` are looked at for `OPENAI_API_KEY` and `OPENAI_BASE_URL` only.
pub(super) async fn run(demo: &DemoArgs, sources: &Sources) -> Result<(), CommandError> {
    descriptors::raise();
    let stop = CancellationToken::new();
    let signals = stop_on_signal(stop.clone())?;
    let (upstream, model) = upstream(demo, sources, &stop).await?;
    let in_use = |error: ledger::Failure| {
        CommandError::new(error.to_string(), "try another port: --port 8081")
    };
    let bind = format!("0.0.0.0:{}", demo.port);
    let users = listen(&bind).await.map_err(in_use)?;
    // Held from here on: what was only looked at may be somebody else's by the time that it is wanted.
    let admin = admin_listener().await;
    let admin_bind = admin
        .as_ref()
        .map_or(String::new(), |(_, address)| address.clone());
    let config = Config::for_demo((&bind, &admin_bind), &upstream)?;
    let (log_format, log_level) = (config.server.log_format, config.server.log_level.clone());
    let listeners = Listeners {
        users,
        admin: admin.map(|(listener, _)| listener),
        outlives: false,
    };
    let (app, writer) = App::open(config, Clock::system())?;
    let tokens = DemoTokens {
        user: token(&app)?,
        admin: app.config().server.admin_token.clone(),
        admin_bind,
    };
    let serving = serve(app.clone(), writer, listeners, stop.clone());
    let show = async {
        let shown = show(demo.port, &tokens, &model).await;
        // Only now: log lines in the middle of the tour would hide it.
        log::init(log_format, &log_level);
        if demo.once || shown.is_err() {
            stop.cancel();
        }
        shown
    };
    let both = async { tokio::join!(serving, show).1 };
    tokio::select! {
        shown = both => shown,
        () = signals => Ok(()),
    }
}

/// What the tour tells to sign in with.
struct DemoTokens {
    user: String,
    admin: Option<SecretString>,
    admin_bind: String,
}

/// Where the operator's page is: where it always is, or anywhere, if something else is there (Prometheus, say).
async fn admin_listener() -> Option<(TcpListener, String)> {
    let usual = TcpListener::bind("127.0.0.1:9090").await;
    let listener = match usual {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("127.0.0.1:0").await.ok()?,
    };
    let address = listener.local_addr().ok()?.to_string();
    Some((listener, address))
}

fn token(app: &App) -> Result<String, CommandError> {
    let secret = app
        .config()
        .auth
        .jwt_secret
        .clone()
        .ok_or_else(|| failed("the demo has no secret"))?;
    let claims = MintClaims {
        user_id: USER,
        plan: None,
        email: Some("demo@example.com".to_owned()),
        is_anonymous: false,
        expires_in: TOKEN_LIFE,
        issuer: "",
    };
    mint(&secret, claims, app.clock.now()).map_err(failed)
}

fn failed(problem: impl std::fmt::Display) -> CommandError {
    CommandError::new(
        format!("the demo failed: {problem}"),
        "look at the log lines above; `tollgate demo --help` says more",
    )
}

/// Where the model is, and what it is called on screen.
async fn upstream(
    demo: &DemoArgs,
    sources: &Sources,
    stop: &CancellationToken,
) -> Result<(DemoUpstream, String), CommandError> {
    let api_key = sources.openai_api_key();
    let said = sources
        .env
        .get("OPENAI_BASE_URL")
        .filter(|url| !url.is_empty() && api_key.is_some());
    let model = demo.model.clone();
    if let Some(url) = demo.upstream.as_ref().or(said) {
        let name = format!("the model at {url}");
        return Ok((
            DemoUpstream {
                url: Some(url.clone()),
                api_key,
                model,
            },
            name,
        ));
    }
    if api_key.is_some() {
        return Ok((
            DemoUpstream {
                url: None,
                api_key,
                model,
            },
            "OpenAI".to_owned(),
        ));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let url = format!("http://{}/v1", listener.local_addr().map_err(failed)?);
    #[allow(
        clippy::disallowed_methods,
        reason = "the stand-in ends with the demo, by `stop`"
    )]
    tokio::spawn(demo_model::serve(listener, stop.clone().cancelled_owned()));
    let name = "a built-in stand-in, not a real model (set OPENAI_API_KEY, or pass --upstream URL, for one)".to_owned();
    Ok((
        DemoUpstream {
            url: Some(url),
            api_key: None,
            model,
        },
        name,
    ))
}

/// The tour: what is served, one request, what it cost, what to try.
async fn show(port: u16, tokens: &DemoTokens, model: &str) -> Result<(), CommandError> {
    let token = tokens.user.as_str();
    print::text(&format!(
        "\nTollgate {} on http://localhost:{port}, with the plan `free` and {model}.\n\nOne request, streamed:\n\n  > {QUESTION}\n\n  ",
        env!("CARGO_PKG_VERSION")
    ))?;
    let before = get(port, token, "/api/me").await?;
    let started = std::time::Instant::now();
    ask(port, token).await?;
    let took = started.elapsed().as_millis();
    let after = get(port, token, "/api/me").await?;
    let usage = get(port, token, "/api/usage").await?;
    let mut text = format!("\n\nIt took {took} ms and moved the limits of the plan:\n\n");
    limits(&mut text, &before, &after);
    let total = usage
        .pointer("/rows/0")
        .map(|row| (text_of(row, "requests"), text_of(row, "cost_usd")))
        .unwrap_or_default();
    let mut line = |said: &str| text.extend([said, "\n"]);
    line(&format!(
        "\nToday so far: {} request{}, ${}.\n\nTry it yourself:\n",
        total.0,
        if total.0 == "1" { "" } else { "s" },
        total.1
    ));
    line(&format!("  export TOKEN={token}\n"));
    line(&format!(
        "  curl -N http://localhost:{port}/v1/chat/completions -H \"Authorization: Bearer $TOKEN\" \\"
    ));
    line("    -H 'Content-Type: application/json' \\");
    line(
        "    -d '{\"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'\n",
    );
    if serves_embeddings(&after) {
        line(&format!(
            "  curl http://localhost:{port}/v1/embeddings -H \"Authorization: Bearer $TOKEN\" \\"
        ));
        line("    -H 'Content-Type: application/json' -d '{\"input\": \"Hello!\"}'\n");
    }
    line(&format!(
        "  curl http://localhost:{port}/api/me -H \"Authorization: Bearer $TOKEN\"\n"
    ));
    line(&format!(
        "  curl http://localhost:{port}/api/usage -H \"Authorization: Bearer $TOKEN\"\n"
    ));
    line(&demo_client::lines(port, token));
    if let Some(admin) = tokens
        .admin
        .as_ref()
        .filter(|_| !tokens.admin_bind.is_empty())
    {
        line(&format!(
            "The operator's page is http://{}; sign in with\n",
            tokens.admin_bind
        ));
        line(&format!("  {}\n", admin.expose_secret()));
    }
    line(
        "Usage is kept in data/demo.db. For your own app: README.md, \"Quick start\". Ctrl-C stops.\n",
    );
    Ok(print::text(&text)?)
}

/// Whether one of the models of `/api/me` makes vectors.
fn serves_embeddings(me: &Value) -> bool {
    let models = me.get("models").and_then(Value::as_array);
    let mut names = models.into_iter().flatten().filter_map(Value::as_str);
    names.any(|name| name.starts_with("text-embedding-"))
}

/// Each limit before and after.
fn limits(text: &mut String, before: &Value, after: &Value) {
    let list = |answer: &Value| {
        answer
            .get("limits")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    for (old, new) in list(before).iter().zip(list(after)) {
        let name = format!("{} per {}", text_of(&new, "unit"), text_of(&new, "per"));
        let (was, is, limit) = (
            text_of(old, "used"),
            text_of(&new, "used"),
            text_of(&new, "limit"),
        );
        text.extend([format!("  {name:22} {was:>9} → {is:>9}  of {limit}\n")]);
    }
}

fn text_of(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Sends the one request and prints its words as they come.
async fn ask(port: u16, token: &str) -> Result<(), CommandError> {
    let body = json!({ "stream": true, "messages": [{ "role": "user", "content": QUESTION }] })
        .to_string();
    let mut response = send(port, token, Method::POST, "/v1/chat/completions", body).await?;
    let status = response.status();
    let mut seen = String::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(failed)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen.push_str(&String::from_utf8_lossy(&data));
        while let Some((event, rest)) = seen.split_once("\n\n") {
            let word = words(event)?;
            let rest = rest.to_owned();
            seen = rest;
            print::text(&word)?;
        }
    }
    if status.is_success() {
        Ok(())
    } else {
        Err(failed(format!(
            "its request was refused with {status}: {seen}"
        )))
    }
}

/// The words in one event.
fn words(event: &str) -> Result<String, CommandError> {
    let Some(data) = event
        .strip_prefix("data: ")
        .filter(|data| *data != "[DONE]")
    else {
        return Ok(String::new());
    };
    let chunk: Value = serde_json::from_str(data).unwrap_or_default();
    if let Some(error) = chunk.get("error") {
        return Err(failed(error));
    }
    Ok(chunk
        .pointer("/choices/0/delta/content")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned())
}

async fn get(port: u16, token: &str, path: &str) -> Result<Value, CommandError> {
    let response = send(port, token, Method::GET, path, String::new()).await?;
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(failed)?
        .to_bytes();
    serde_json::from_slice(&body).map_err(failed)
}

async fn send(
    port: u16,
    token: &str,
    method: Method,
    path: &str,
    body: String,
) -> Result<http::Response<Incoming>, CommandError> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(failed)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    #[allow(
        clippy::disallowed_methods,
        reason = "the connection ends with its answer"
    )]
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(failed)?;
    sender.send_request(request).await.map_err(failed)
}
