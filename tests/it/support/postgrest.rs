//! A stand-in for a Supabase project's API: PostgREST's calls of functions behind Supabase's gateway, on a real Postgres.
//!
//! It is written from documented behaviour alone: which key goes into which header, which role a call runs as, how a
//! function is found in a schema cache, and which status and body an SQLSTATE becomes. It runs SQL through `set role`, so
//! grants and row-level security are the database's own. It knows HS256 tokens and calls of functions (`/rest/v1/rpc/…`)
//! and publishes the JWKS that it is given; the rest of Supabase is 404. What the product asked is counted.

use std::future::poll_fn;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, NoTls};

use super::keys::{Key, random_hex};
use super::postgres::Postgres;
use super::wire::{self, Request};
use super::{rpc, tokens};

/// The script that `tollgate sql` prints.
pub(crate) fn script() -> &'static str {
    static SCRIPT: OnceLock<String> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("sql")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    })
}

/// When the project was made: what its API roles are granted without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grants {
    /// Everything in `public`: projects of before May 2026.
    Old,
    /// Nothing, not to `service_role` either.
    New,
}

/// How the API behaves from now on.
#[derive(Clone, Debug)]
pub(crate) enum Behave {
    Up,
    /// It closes the connection without a word.
    Down,
    /// It takes the request and never answers.
    Hang,
    /// It answers this instead of calling anything.
    Answer(u16, String),
    /// It calls the function, commits, and closes the connection without an answer.
    LoseAnswer,
    /// It waits before it calls the function.
    Slow(Duration),
}

/// One request that reached the API (the keys of Auth are not counted).
#[derive(Clone, Debug)]
pub(crate) struct RestCall {
    pub(crate) request: Request,
    /// The function, where the path named one.
    pub(crate) function: String,
    /// What was answered; 0 while it has not been.
    pub(crate) status: u16,
}

/// An answer of the API; no body is 204.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Option<String>,
}

impl Reply {
    /// An error of PostgREST's: four members, `details` and `hint` null where there is nothing to say.
    pub(super) fn error(
        status: u16,
        code: &str,
        message: &str,
        details: Option<&str>,
        hint: Option<&str>,
    ) -> Self {
        let body = json!({"code": code, "details": details, "hint": hint, "message": message});
        Self {
            status,
            body: Some(body.to_string()),
        }
    }

    /// An error of the gateway, which has no code.
    fn gateway(message: &str, hint: &str) -> Self {
        Self {
            status: 401,
            body: Some(json!({"message": message, "hint": hint}).to_string()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Some(body) => wire::answer(
                self.status,
                "application/json; charset=utf-8",
                body.as_bytes(),
            ),
            None => format!("HTTP/1.1 {} No Content\r\n\r\n", self.status).into_bytes(),
        }
    }
}

/// A caller as PostgREST sees them: the database's role and the claims.
pub(super) struct Caller {
    pub(super) role: String,
    pub(super) claims: Value,
}

/// The project's API keys, as its dashboard shows them.
#[derive(Clone, Debug)]
pub(crate) struct ApiKeys {
    pub(crate) secret: String,
    pub(crate) publishable: String,
    /// Legacy: a JWT.
    pub(crate) service_role: String,
    /// Legacy: a JWT.
    pub(crate) anon: String,
    /// The legacy JWT secret, which signs the two and, for old projects, the users' tokens.
    pub(crate) jwt_secret: String,
}

struct State {
    postgres: Postgres,
    keys: ApiKeys,
    jwks: Mutex<Vec<Value>>,
    issuer: Mutex<Option<String>>,
    behave: Mutex<Behave>,
    calls: Mutex<Vec<RestCall>>,
    cache: Mutex<rpc::SchemaCache>,
}

/// The project, running until it is dropped.
pub(crate) struct Rest {
    state: Arc<State>,
    url: String,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Rest {
    /// An empty project on a Postgres of its own.
    pub(crate) async fn start(grants: Grants) -> Self {
        let postgres = Postgres::start(false).await;
        let old = if grants == Grants::Old {
            include_str!("project_old.sql")
        } else {
            ""
        };
        let setup = format!("{}{old}", include_str!("project.sql"));
        postgres
            .connect("postgres")
            .await
            .batch_execute(&setup)
            .await
            .unwrap();
        let state = Arc::new(State {
            postgres,
            keys: ApiKeys::random(),
            jwks: Mutex::default(),
            issuer: Mutex::default(),
            behave: Mutex::new(Behave::Up),
            calls: Mutex::default(),
            cache: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tasks = [
            tokio::spawn(accept(listener, state.clone())),
            tokio::spawn(follow(state.clone())),
        ];
        let rest = Self { state, url, tasks };
        rest.until_reloaded(0).await;
        rest
    }

    /// [`Rest::start`], with the script that `tollgate sql` prints run in it, and known to the API.
    pub(crate) async fn with_script(grants: Grants) -> Self {
        let rest = Self::start(grants).await;
        rest.run_as_editor(script()).await;
        rest
    }

    /// Runs SQL that ends with `notify pgrst, 'reload schema'` as the SQL editor does, and waits for the reload.
    pub(crate) async fn run_as_editor(&self, sql: &str) {
        let reloads = self.reloads();
        self.state
            .postgres
            .connect_as("editor", "postgres")
            .await
            .batch_execute(sql)
            .await
            .unwrap();
        self.until_reloaded(reloads).await;
    }

    /// What `SUPABASE_URL` is set to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its keys; `SUPABASE_SERVICE_KEY` is `secret` or `service_role`.
    pub(crate) fn keys(&self) -> &ApiKeys {
        &self.state.keys
    }

    /// Its database; the SQL editor's user is `editor`.
    pub(crate) fn postgres(&self) -> &Postgres {
        &self.state.postgres
    }

    /// The JWKS that Auth publishes from now on.
    pub(crate) fn publish_keys(&self, keys: Vec<Value>) {
        *self.state.jwks.lock().unwrap() = keys;
    }

    /// Whom Auth says its tokens are from; at first it does not tell, as older versions.
    pub(crate) fn signs_as(&self, issuer: &str) {
        *self.state.issuer.lock().unwrap() = Some(issuer.to_owned());
    }

    /// Changes how the API (not Auth) behaves.
    pub(crate) fn behave(&self, behave: Behave) {
        *self.state.behave.lock().unwrap() = behave;
    }

    /// Every call that came, in order.
    pub(crate) fn calls(&self) -> Vec<RestCall> {
        self.state.calls.lock().unwrap().clone()
    }

    /// How many calls of a function came.
    pub(crate) fn calls_of(&self, function: &str) -> usize {
        self.state
            .calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| call.function == function)
            .count()
    }

    fn reloads(&self) -> u64 {
        self.state.cache.lock().unwrap().reloads
    }

    async fn until_reloaded(&self, seen: u64) {
        let reloaded = async {
            while self.reloads() == seen {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), reloaded)
            .await
            .expect("the API was never told to reload its schema");
    }
}

impl ApiKeys {
    fn random() -> Self {
        let jwt_secret = format!("canary-jwt-{}", random_hex(24));
        let legacy = |role: &str| {
            let now = tokens::now();
            let claims = json!({"iss": "supabase", "ref": "standin", "role": role, "iat": now, "exp": now + 315_360_000});
            tokens::sign(&Key::hs256(jwt_secret.clone()), &claims)
        };
        Self {
            secret: format!("sb_secret_{}_{}", random_hex(11), random_hex(4)),
            publishable: format!("sb_publishable_{}_{}", random_hex(11), random_hex(4)),
            service_role: legacy("service_role"),
            anon: legacy("anon"),
            jwt_secret,
        }
    }

    /// The gateway's part and PostgREST's: who calls, by `apikey` and `Authorization`.
    fn authorize(&self, request: &Request) -> Result<Caller, Reply> {
        let apikey = request.header("apikey").ok_or_else(|| {
            Reply::gateway(
                "No API key found in request",
                "No `apikey` request header was found.",
            )
        })?;
        let (secret, publishable) = (apikey == self.secret, apikey == self.publishable);
        if !secret && !publishable && apikey != self.service_role && apikey != self.anon {
            return Err(Reply::gateway(
                "Invalid API key",
                "Double check your Supabase API key.",
            ));
        }
        if secret
            && request
                .header("user-agent")
                .is_some_and(|agent| agent.contains("Mozilla/"))
        {
            return Err(Reply::gateway(
                "Forbidden use of secret API key in browser",
                "Delete this secret API key.",
            ));
        }
        let role = |role: &str| {
            Ok(Caller {
                role: role.to_owned(),
                claims: json!({"role": role}),
            })
        };
        match request.header("authorization") {
            None if secret => role("service_role"),
            // A legacy key is a JWT, and PostgREST looks for a JWT in `Authorization` alone.
            None => role("anon"),
            Some(value) => self.verify(value.strip_prefix("Bearer ").unwrap_or_default()),
        }
    }

    fn verify(&self, token: &str) -> Result<Caller, Reply> {
        let invalid = || Reply::error(401, "PGRST301", "Invalid JWT", None, None);
        let (message, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
        let expected =
            URL_SAFE_NO_PAD.encode(Key::hs256(self.jwt_secret.clone()).sign(message.as_bytes()));
        let claims = message
            .split_once('.')
            .and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims: Value = claims
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(invalid)?;
        if signature != expected {
            return Err(invalid());
        }
        if claims["exp"]
            .as_i64()
            .is_some_and(|exp| exp <= tokens::now())
        {
            return Err(Reply::error(401, "PGRST303", "JWT expired", None, None));
        }
        Ok(Caller {
            role: claims["role"].as_str().unwrap_or("anon").to_owned(),
            claims,
        })
    }
}

/// Keeps the schema cache, through every restart of the database.
async fn follow(state: Arc<State>) {
    loop {
        let _ = keep_cache(&state).await;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Reads the schema cache at once and whenever the database says so, until the connection breaks.
async fn keep_cache(state: &State) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) =
        tokio_postgres::connect(&state.postgres.url("postgres"), NoTls).await?;
    let (heard, mut payloads) = mpsc::unbounded_channel();
    let mut listening = JoinSet::new();
    listening.spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            let AsyncMessage::Notification(notification) = message else {
                continue;
            };
            let _ = heard.send(notification.payload().to_owned());
        }
    });
    client.batch_execute("listen pgrst").await?;
    let mut reload = Some("reload schema".to_owned());
    while let Some(payload) = reload {
        if payload == "reload schema" {
            let functions = rpc::functions(&client).await?;
            state.cache.lock().unwrap().replace(functions);
        }
        reload = payloads.recv().await;
    }
    Ok(())
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        serving.spawn(serve(stream, state.clone()));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = wire::read_request(&mut stream).await {
        let Some(reply) = answer(request, &state).await else {
            return;
        };
        if stream.write_all(&reply.bytes()).await.is_err() {
            return;
        }
    }
}

/// `None`: the connection is closed.
async fn answer(request: Request, state: &State) -> Option<Reply> {
    if request.target == "/auth/v1/.well-known/jwks.json" {
        let keys = json!({"keys": *state.jwks.lock().unwrap()});
        return Some(Reply {
            status: 200,
            body: Some(keys.to_string()),
        });
    }
    if request.target == "/auth/v1/.well-known/openid-configuration" {
        let issuer = state.issuer.lock().unwrap().clone();
        let (status, body) =
            issuer.map_or((404, json!({})), |issuer| (200, json!({"issuer": issuer})));
        return Some(Reply {
            status,
            body: Some(body.to_string()),
        });
    }
    let path = request.target.split('?').next().unwrap_or_default();
    let function = path
        .strip_prefix("/rest/v1/rpc/")
        .unwrap_or_default()
        .to_owned();
    let index = {
        let mut calls = state.calls.lock().unwrap();
        calls.push(RestCall {
            request: request.clone(),
            function: function.clone(),
            status: 0,
        });
        calls.len() - 1
    };
    let behave = state.behave.lock().unwrap().clone();
    let reply = match &behave {
        Behave::Down => return None,
        Behave::Hang => std::future::pending().await,
        Behave::Answer(status, body) => Reply {
            status: *status,
            body: Some(body.clone()),
        },
        Behave::Slow(wait) => {
            sleep(*wait).await;
            call(&request, &function, state).await
        }
        Behave::Up | Behave::LoseAnswer => call(&request, &function, state).await,
    };
    state.calls.lock().unwrap()[index].status = reply.status;
    (!matches!(behave, Behave::LoseAnswer)).then_some(reply)
}

async fn call(request: &Request, function: &str, state: &State) -> Reply {
    let caller = match state.keys.authorize(request) {
        Ok(caller) => caller,
        Err(reply) => return reply,
    };
    if function.is_empty() {
        let message = format!(
            "Could not find the table '{}' in the schema cache",
            request.target
        );
        return Reply::error(404, "PGRST205", &message, None, None);
    }
    let prepared = rpc::prepare(request, function, &state.cache.lock().unwrap());
    match prepared {
        Ok(call) => rpc::run(&state.postgres, &caller, &call)
            .await
            .unwrap_or_else(|reply| reply),
        Err(reply) => reply,
    }
}
