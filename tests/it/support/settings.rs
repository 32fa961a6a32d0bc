//! What the product is started with: a `tollgate.toml` and an environment, as an operator would write them.

use toml::{Table, Value};

/// Generous waits and limits; a test that is about one of them sets it.
const BASE: &str = r#"
[server]
header_timeout = "10s"
body_timeout = "10s"
shutdown_grace = "5s"

[proxy]
connect_timeout = "2s"
first_byte_timeout = "15s"
idle_timeout = "15s"
total_timeout = "60s"
drain_timeout = "10s"

[ceiling]
cost_usd_per_day = "1000"

[plans.free]
default = true
models = ["gpt-4o-mini", "gpt-4o"]
max_output_tokens = 1000
max_input_tokens = 16000
max_choices = 1
concurrent_requests = 100
limits = [
  { per = "day", requests = 1000 },
  { per = "month", cost_usd = "100" },
  { per = "lifetime", tokens = 10000000 },
]

[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["*"]
dialect = "openai"
"#;

/// What the models of [`BASE`] cost, in micro-dollars a million tokens: input, cached input, output. Facts of the
/// world, so that the oracle need not ask the product.
const SHIPPED: [(&str, (u128, u128, u128)); 3] = [
    ("gpt-4o-mini", (150_000, 75_000, 600_000)),
    ("gpt-4o", (2_500_000, 1_250_000, 10_000_000)),
    ("text-embedding-3-small", (20_000, 20_000, 0)),
];

/// Which ledger a door gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Whichever the tests are run on.
    Either,
    /// A SQLite file: the test is about it.
    Sqlite,
    /// A database on Postgres: the test is about several processes.
    Postgres,
    /// The one that the settings name.
    Told,
}

/// A configuration to start with.
#[derive(Clone)]
pub(crate) struct Settings {
    store: Store,
    file: Table,
    env: Vec<(String, String)>,
    unset: Vec<&'static str>,
    wrapper: Vec<String>,
    written: bool,
}

impl Settings {
    /// [`BASE`]; the door adds the addresses of the fakes and the secrets.
    pub(crate) fn new() -> Self {
        Self {
            store: Store::Either,
            file: BASE.parse().unwrap(),
            env: Vec::new(),
            unset: Vec::new(),
            wrapper: Vec::new(),
            written: true,
        }
    }

    /// No file at all: only the environment.
    pub(crate) fn without_file() -> Self {
        Self {
            file: Table::new(),
            written: false,
            ..Self::new()
        }
    }

    /// Lays TOML over what is there, table by table; arrays are replaced.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        lay_over(&mut self.file, toml.parse().expect("the test's own TOML"));
        self
    }

    /// The same the other way round: what is there already stays.
    pub(crate) fn under_base(mut self, toml: &str) -> Self {
        let mut file: Table = toml.parse().expect("the test's own TOML");
        lay_over(&mut file, std::mem::take(&mut self.file));
        self.file = file;
        self
    }

    /// One more environment variable, also in place of one that the door sets.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes out an environment variable that the door sets.
    pub(crate) fn unset(mut self, name: &'static str) -> Self {
        self.unset.push(name);
        self
    }

    /// Starts the server under another program, which must `exec` it.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// On a SQLite file, whatever the other tests are run on.
    pub(crate) const fn on_sqlite(mut self) -> Self {
        self.store = Store::Sqlite;
        self
    }

    /// On Postgres, whatever the other tests are run on.
    pub(crate) const fn on_postgres(mut self) -> Self {
        self.store = Store::Postgres;
        self
    }

    /// Which ledger is wanted.
    pub(crate) fn store(&self) -> Store {
        let named = self
            .file
            .get("store")
            .is_some_and(|store| store.get("url").is_some());
        let named = named
            || self
                .env
                .iter()
                .any(|(name, _)| name == "TOLLGATE_STORE__URL" || name == "DATABASE_URL");
        if named { Store::Told } else { self.store }
    }

    /// The file's text; `None` where there is to be none.
    pub(crate) fn text(&self) -> Option<String> {
        self.written.then(|| toml::to_string(&self.file).unwrap())
    }

    /// Whether the file says anything about this table.
    pub(crate) fn mentions(&self, table: &str) -> bool {
        self.file.contains_key(table)
    }

    /// The environment that the test adds.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// What the environment must not have.
    pub(crate) fn unset_names(&self) -> &[&'static str] {
        &self.unset
    }

    /// The program it is started under, with its arguments.
    pub(crate) fn wrapper(&self) -> &[String] {
        &self.wrapper
    }

    /// Whether days begin at midnight UTC.
    pub(crate) fn is_utc(&self) -> bool {
        self.file
            .get("server")
            .and_then(|server| server.get("time_zone"))
            .is_none_or(|zone| zone.as_str() == Some("UTC"))
    }

    /// A model's prices in micro-dollars a million tokens: input, cached input, output.
    pub(crate) fn price(&self, model: &str) -> Option<(u128, u128, u128)> {
        let Some(price) = self.file.get("prices").and_then(|prices| prices.get(model)) else {
            return SHIPPED
                .iter()
                .find(|(name, _)| *name == model)
                .map(|(_, price)| *price);
        };
        let of = |name: &str| {
            price
                .get(name)
                .and_then(Value::as_str)
                .map(|text| micros(text) as u128)
        };
        // What is paid by the piece costs nothing in tokens.
        let by_piece = ["characters", "image", "minute"];
        let is_by_piece = by_piece.iter().any(|name| price.get(name).is_some());
        let input = of("input").or_else(|| is_by_piece.then_some(0))?;
        Some((
            input,
            of("cached_input").unwrap_or(input),
            of("output").unwrap_or(0),
        ))
    }
}

fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// US dollars as a decimal string, in micro-dollars.
pub(crate) fn micros(dollars: &str) -> i64 {
    let (whole, fraction) = dollars.split_once('.').unwrap_or((dollars, ""));
    assert!(fraction.len() <= 6, "{dollars:?} has more than six places");
    let fraction: i64 = format!("{fraction:0<6}")
        .parse()
        .unwrap_or_else(|_| panic!("{dollars:?} is no amount"));
    let whole: i64 = whole
        .parse()
        .unwrap_or_else(|_| panic!("{dollars:?} is no amount"));
    whole * 1_000_000 + fraction
}
