//! `tollgate webhook test`: sends a signed event to a running server, as a store would.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, Uri, header};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CommandError, print};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, RotatingSecret, Sources};
use crate::http_client::HttpClient;
use crate::purchases::signature::{sign_standard, sign_timed};

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How to get a notification of the App Store.
const APPLES_TEST: &str = "let Apple send one: POST https://api.storekit.apple.com/inApps/v1/notifications/test with a key of App \
Store Connect (for the sandbox URL: api.storekit-sandbox.apple.com), or buy something in TestFlight; then see `tollgate purchases --events`";

/// Try a store's webhook
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate webhook test revenuecat
  tollgate webhook test stripe --url http://127.0.0.1:8080")]
pub(super) struct WebhookArgs {
    #[command(subcommand)]
    action: WebhookAction,
}

#[derive(Debug, clap::Subcommand)]
enum WebhookAction {
    /// Send a test event to a running server, signed with the secret in the settings. It changes nobody's plan
    #[command(after_help = "Example:\n  tollgate webhook test revenuecat")]
    Test {
        /// Who is to have sent it
        store: TestSender,
        /// The server. Default: the one in the settings, on this machine
        #[arg(long)]
        url: Option<Uri>,
    },
}

/// Stores whose secret we have too, and the App Store, which alone can sign.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TestSender {
    Appstore,
    Revenuecat,
    Superwall,
    Stripe,
}

/// Sends the event, and tells what the server said.
pub(super) async fn run(args: &WebhookArgs, sources: &Sources) -> Result<(), CommandError> {
    let WebhookAction::Test { store, url } = &args.action;
    let config = Config::load(sources)?;
    let now = Clock::system().now();
    let Some(body) = store.event(now) else {
        let problem = "only Apple can sign a notification of the App Store";
        return Err(CommandError::new(problem, APPLES_TEST));
    };
    let (path, body) = (store.path(), body.to_string());
    let uri = super::health::on_server(url.as_ref(), &sources.bind(), path)?;
    let mut request = Request::post(uri.clone()).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in store.proof(&config, &body, now)? {
        request = request.header(name, value);
    }
    let request = request.body(Bytes::from(body));
    let request = request.map_err(|error| {
        CommandError::new(
            error.to_string(),
            "copy the secret again, without anything around it",
        )
    })?;
    let sent = tokio::time::timeout(TIMEOUT, send(request)).await;
    let sent = sent.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let (status, answer) = sent.map_err(|problem| {
        CommandError::new(
            format!("{uri}: {problem}"),
            "start it with `tollgate serve`, or say where it is with --url",
        )
    })?;
    if status == http::StatusCode::OK {
        return Ok(print::line(&format!("{uri} took it: {answer}"))?);
    }
    let next = "a 401 means that the server has another secret: restart it, or let it read its settings again";
    Err(CommandError::new(
        format!("{uri} answered {status}: {answer}"),
        next,
    ))
}

async fn send(request: Request<Bytes>) -> Result<(http::StatusCode, String), String> {
    let client = HttpClient::new(ANSWER_BYTES_MAX, 0).map_err(|error| error.to_string())?;
    let answer = client
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = client.read(answer.into_body()).await;
    let body = body.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&body);
    Ok((
        status,
        text.escape_debug().to_string().replace("\\\"", "\""),
    ))
}

impl TestSender {
    const fn path(self) -> &'static str {
        match self {
            Self::Appstore => "/webhooks/appstore",
            Self::Revenuecat => "/webhooks/revenuecat",
            Self::Superwall => "/webhooks/superwall",
            Self::Stripe => "/webhooks/stripe",
        }
    }

    /// An event that changes nothing; none where we cannot sign one.
    fn event(self, now: Timestamp) -> Option<Value> {
        let id = format!("tollgate-test-{}", Uuid::now_v7());
        let (millis, seconds) = (now.millis(), now.secs());
        Some(match self {
            Self::Appstore => return None,
            Self::Revenuecat => json!({ "api_version": "1.0", "event": {
                "id": id, "type": "TEST", "event_timestamp_ms": millis, "environment": "SANDBOX", "store": "APP_STORE",
                "app_user_id": Uuid::nil(),
            }}),
            Self::Superwall => {
                json!({ "object": "event", "type": "test", "timestamp": millis, "data": {
                    "id": id, "name": "test", "environment": "SANDBOX",
                }})
            }
            Self::Stripe => {
                json!({ "object": "event", "id": id, "type": "tollgate.test", "created": seconds,
                    "livemode": false, "data": { "object": {} },
                })
            }
        })
    }

    fn proof(
        self,
        config: &Config,
        body: &str,
        now: Timestamp,
    ) -> Result<Vec<(&'static str, String)>, CommandError> {
        let webhooks = &config.webhooks;
        let missing = |key: &str| {
            let problem = format!("[webhooks] {key} is not set");
            CommandError::new(
                problem,
                "set it to the name of the variable that holds the secret",
            )
        };
        let timed = |secret: &RotatingSecret| {
            sign_timed(body.as_bytes(), secret.current.expose_secret(), now)
        };
        Ok(match self {
            Self::Appstore => Vec::new(),
            Self::Revenuecat => match (
                &webhooks.revenuecat_secret,
                &webhooks.revenuecat_authorization,
            ) {
                (Some(secret), _) => vec![("x-revenuecat-webhook-signature", timed(secret))],
                (None, Some(agreed)) => {
                    vec![("authorization", agreed.current.expose_secret().to_owned())]
                }
                (None, None) => return Err(missing("revenuecat_secret_env")),
            },
            Self::Superwall => {
                let secret = webhooks.superwall_secret.as_ref();
                let secret = secret.ok_or_else(|| missing("superwall_secret_env"))?;
                let id = Uuid::now_v7().to_string();
                let signed = sign_standard((&id, body.as_bytes()), secret, now);
                vec![
                    ("webhook-timestamp", now.secs().to_string()),
                    (
                        "webhook-signature",
                        format!("v1,{}", STANDARD.encode(signed)),
                    ),
                    ("webhook-id", id),
                ]
            }
            Self::Stripe => {
                let secret = webhooks.stripe_secret.as_ref();
                let secret = secret.ok_or_else(|| missing("stripe_secret_env"))?;
                vec![("stripe-signature", timed(secret))]
            }
        })
    }
}
