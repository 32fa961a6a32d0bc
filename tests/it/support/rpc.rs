//! How PostgREST calls a function: found by its name and the names of its arguments, run as the caller's role in one
//! transaction, and its errors turned into a status by their SQLSTATE.
//!
//! It knows no keys and no HTTP beyond a request's method, headers and body; see [`super::postgrest`].

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::postgres::Postgres;
use super::postgrest::{Caller, Reply};
use super::wire::Request;

const EXPOSED: [&str; 2] = ["public", "graphql_public"];

/// The functions of `public` as they were when the cache was read last.
#[derive(Default)]
pub(super) struct SchemaCache {
    functions: Vec<Function>,
    /// How often it was read.
    pub(super) reloads: u64,
}

impl SchemaCache {
    /// Forgets what was known.
    pub(super) fn replace(&mut self, functions: Vec<Function>) {
        self.functions = functions;
        self.reloads += 1;
    }

    /// The function that takes arguments of these names, and needs no other.
    fn find(&self, name: &str, given: &Map<String, Value>) -> Option<&Function> {
        self.functions.iter().find(|function| {
            let named =
                |argument: &str| function.arguments.iter().any(|(name, _)| name == argument);
            let required = function.arguments.iter().take(function.required);
            function.name == name
                && given.keys().all(|argument| named(argument))
                && required
                    .map(|(name, _)| name)
                    .all(|name| given.contains_key(name))
        })
    }
}

/// A function of the schema cache.
#[derive(Clone)]
pub(super) struct Function {
    name: String,
    is_void: bool,
    is_set: bool,
    /// Names and types.
    arguments: Vec<(String, String)>,
    /// The first so many have no default.
    required: usize,
}

/// Reads the functions of `public`.
pub(super) async fn functions(client: &Client) -> Result<Vec<Function>, tokio_postgres::Error> {
    let sql = "select proname::text, prorettype = 'void'::regtype, proretset, coalesce(proargnames, '{}')::text[],
                      array(select format_type(type, null) from unnest(proargtypes) with ordinality u (type, place)
                            order by place)::text[],
                      (pronargs - pronargdefaults)::int
               from pg_proc where pronamespace = 'public'::regnamespace";
    let rows = client.query(sql, &[]).await?;
    let functions = rows.iter().map(|row| {
        let (names, types): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        Function {
            name: row.get(0),
            is_void: row.get(1),
            is_set: row.get(2),
            arguments: names.into_iter().zip(types).collect(),
            required: usize::try_from(row.get::<_, i32>(5)).unwrap(),
        }
    });
    Ok(functions.collect())
}

/// A call that has passed every check before the database.
pub(super) struct Prepared {
    sql: String,
    arguments: Value,
    is_void: bool,
    wants_one: bool,
    is_read_only: bool,
}

/// Checks a request and finds its function.
pub(super) fn prepare(
    request: &Request,
    name: &str,
    cache: &SchemaCache,
) -> Result<Prepared, Reply> {
    let is_read_only = match request.method.as_str() {
        "POST" => false,
        "GET" | "HEAD" => true,
        _ => {
            return Err(Reply::error(
                405,
                "PGRST101",
                "Only GET, HEAD and POST are allowed for RPC",
                None,
                None,
            ));
        }
    };
    let profile = request.header(if is_read_only {
        "accept-profile"
    } else {
        "content-profile"
    });
    if profile.is_some_and(|schema| !EXPOSED.contains(&schema)) {
        let message = format!(
            "The schema must be one of the following: {}",
            EXPOSED.join(", ")
        );
        return Err(Reply::error(406, "PGRST106", &message, None, None));
    }
    let wants_one = wants_one(request.header("accept").unwrap_or("*/*"))?;
    let given = arguments(request, is_read_only)?;
    let schema = profile.unwrap_or("public");
    let function = cache.find(name, &given).filter(|_| schema == "public");
    let function = function.ok_or_else(|| not_found(schema, name, &given))?;
    Ok(Prepared {
        sql: function.call(&given),
        arguments: Value::Object(given),
        is_void: function.is_void,
        wants_one: wants_one && function.is_set,
        is_read_only,
    })
}

fn wants_one(accept: &str) -> Result<bool, Reply> {
    if accept.contains("application/vnd.pgrst.object+json") {
        return Ok(true);
    }
    if ["application/json", "application/*", "*/*"]
        .iter()
        .any(|kind| accept.contains(kind))
    {
        return Ok(false);
    }
    let message = format!("None of these media types are available: {accept}");
    Err(Reply::error(406, "PGRST107", &message, None, None))
}

fn arguments(request: &Request, is_query: bool) -> Result<Map<String, Value>, Reply> {
    if is_query {
        let query = request
            .target
            .split_once('?')
            .map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        return Ok(pairs
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect());
    }
    let kind = request.header("content-type").unwrap_or_default();
    if !kind.starts_with("application/json") {
        let message = format!("Content-Type not acceptable: {kind}");
        return Err(Reply::error(415, "PGRST102", &message, None, None));
    }
    let malformed = || Reply::error(400, "PGRST102", "Empty or invalid json", None, None);
    serde_json::from_slice(&request.body).map_err(|_| malformed())
}

fn not_found(schema: &str, name: &str, given: &Map<String, Value>) -> Reply {
    let names = given
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let message =
        format!("Could not find the function {schema}.{name}({names}) in the schema cache");
    let details = format!(
        "Searched for the function {schema}.{name} with parameters {names} or with a single unnamed json/jsonb \
         parameter, but no matches were found in the schema cache."
    );
    Reply::error(404, "PGRST202", &message, Some(&details), None)
}

impl Function {
    /// A select of one text, `$1` being an object of the arguments.
    fn call(&self, given: &Map<String, Value>) -> String {
        let taken: Vec<_> = self
            .arguments
            .iter()
            .filter(|(name, _)| given.contains_key(name))
            .collect();
        let passed = taken
            .iter()
            .map(|(name, _)| format!("{name} => a.{name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let columns = taken
            .iter()
            .map(|(name, kind)| format!("{name} {kind}"))
            .collect::<Vec<_>>()
            .join(", ");
        let from = if taken.is_empty() {
            "(select $1::json) a".to_owned()
        } else {
            format!("json_to_record($1::json) as a ({columns})")
        };
        let call = format!("public.{}({passed})", self.name);
        match (self.is_void, self.is_set) {
            (true, _) => format!("select {call}::text from {from}"),
            (_, true) => {
                format!("select coalesce(jsonb_agg(f), '[]')::text from {from}, lateral {call} f")
            }
            (_, false) => format!("select coalesce(to_jsonb({call})::text, 'null') from {from}"),
        }
    }
}

/// Runs a call as its caller.
pub(super) async fn run(
    postgres: &Postgres,
    caller: &Caller,
    call: &Prepared,
) -> Result<Reply, Reply> {
    let url = postgres.url_as("authenticator", "postgres");
    let connecting = timeout(
        Duration::from_secs(10),
        tokio_postgres::connect(&url, NoTls),
    )
    .await;
    let Ok(Ok((mut client, connection))) = connecting else {
        return Err(Reply::error(
            503,
            "PGRST000",
            "Database connection error. Retrying the connection.",
            None,
            None,
        ));
    };
    let _connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let text = in_transaction(&mut client, caller, call)
        .await
        .map_err(|error| failed(&error, &caller.role))?;
    if call.is_void {
        return Ok(Reply {
            status: 204,
            body: None,
        });
    }
    if !call.wants_one {
        return Ok(Reply {
            status: 200,
            body: Some(text),
        });
    }
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let message = "JSON object requested, multiple (or no) rows returned";
    match &rows[..] {
        [row] => Ok(Reply {
            status: 200,
            body: Some(row.to_string()),
        }),
        rows => Err(Reply::error(
            406,
            "PGRST116",
            message,
            Some(&format!("The result contains {} rows", rows.len())),
            None,
        )),
    }
}

async fn in_transaction(
    client: &mut Client,
    caller: &Caller,
    call: &Prepared,
) -> Result<String, tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .read_only(call.is_read_only)
        .start()
        .await?;
    let settings =
        "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)";
    transaction
        .query(settings, &[&caller.role, &caller.claims.to_string()])
        .await?;
    let row = transaction.query_one(&call.sql, &[&call.arguments]).await?;
    transaction.commit().await?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

/// The answer to an error of the database.
fn failed(error: &tokio_postgres::Error, role: &str) -> Reply {
    let Some(told) = error.as_db_error() else {
        return Reply::error(
            503,
            "PGRST001",
            "Database client error. Retrying the connection.",
            None,
            None,
        );
    };
    let state = told.code().code();
    Reply::error(
        status_of(state, role),
        state,
        told.message(),
        told.detail(),
        told.hint(),
    )
}

/// The status of an SQLSTATE.
pub(super) fn status_of(state: &str, role: &str) -> u16 {
    if let Some(status) = state
        .strip_prefix("PT")
        .and_then(|status| status.parse().ok())
    {
        return status;
    }
    match state {
        "42501" if role == "anon" => 401,
        "42501" => 403,
        "23503" | "23505" => 409,
        "25006" => 405,
        "42883" => 404,
        _ if state.starts_with("08") || state.starts_with("53") => 503,
        _ if state.starts_with("40") || state.starts_with("57") || state.starts_with("XX") => 500,
        _ => 400,
    }
}
