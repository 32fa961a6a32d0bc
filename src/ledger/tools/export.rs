//! Carrying a ledger from one database to another, exactly, while nobody serves from either.
//!
//! An export is a text of JSON lines: a head, every row of every table, and a last line with sums and the SHA-256 of all
//! lines before it. An import takes it only into an empty ledger, and is one transaction: what does not agree with the last
//! line, and what was killed half-way, was never there.

use std::io::{BufRead, Write};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::{Value, json};

use crate::config::StoreUrl;
use crate::ledger::file::{self, Lock};
use crate::ledger::hex::hex;
use crate::ledger::read::connection::{Cell, Db};
use crate::ledger::sqlite::{Book, Failure};

/// What an export begins with.
const FORMAT: &str = "tollgate ledger 2";
/// What older exports begin with: their requests have fewer columns, the first ones.
const OLDER_FORMAT: &str = "tollgate ledger 1";
/// How many requests of older exports have.
const OLDER_REQUEST_COLUMNS: [usize; 3] = [22, 40, 41];
/// How many rows go into one statement.
const ROWS: usize = 100;

/// A table: its name, the columns that are its key, all its columns.
struct Table {
    name: &'static str,
    key: &'static [&'static str],
    columns: &'static [&'static str],
}

/// What a ledger consists of. (`owners` live in their own database.)
const TABLES: [Table; 18] = [
    Table {
        name: "requests",
        key: &["id"],
        columns: &[
            "id",
            "user_id",
            "plan",
            "endpoint",
            "model",
            "upstream",
            "state",
            "flags",
            "load",
            "held_input_tokens",
            "held_output_tokens",
            "held_micros",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cost_micros",
            "started_at",
            "ended_at",
            "ttft_ms",
            "owner",
            "unsent",
            "requested_model",
            "feature",
            "prompt_version",
            "paid_by",
            "price_id",
            "held_audio_seconds",
            "held_characters",
            "held_images",
            "cache_write_tokens",
            "cache_write_1h_tokens",
            "image_input_tokens",
            "cached_image_input_tokens",
            "audio_input_tokens",
            "image_output_tokens",
            "audio_output_tokens",
            "audio_seconds",
            "characters",
            "images",
            "plan_model",
            "credit_micros",
        ],
    },
    Table {
        name: "prices",
        key: &["id"],
        columns: &["id", "rates", "made_at"],
    },
    Table {
        name: "idempotency_keys",
        key: &["user_id", "key"],
        columns: &["user_id", "key", "digest", "request_id", "made_at"],
    },
    Table {
        name: "windows",
        key: &["user_id", "ends_at", "per", "starts_at"],
        columns: &[
            "user_id",
            "ends_at",
            "per",
            "starts_at",
            "requests_used",
            "tokens_used",
            "micros_used",
            "requests_held",
            "tokens_held",
            "micros_held",
        ],
    },
    Table {
        name: "tallies",
        key: &["user_id", "ends_at", "per", "starts_at", "model"],
        columns: &[
            "user_id",
            "ends_at",
            "per",
            "starts_at",
            "model",
            "requests_used",
            "tokens_used",
            "micros_used",
            "images_used",
            "audio_seconds_used",
            "characters_used",
            "requests_held",
            "tokens_held",
            "micros_held",
            "images_held",
            "audio_seconds_held",
            "characters_held",
        ],
    },
    Table {
        name: "subscriptions",
        key: &["user_id"],
        columns: &[
            "user_id",
            "plan",
            "period_start",
            "period_end",
            "until",
            "blocked",
            "updated_at",
        ],
    },
    Table {
        name: "switches",
        key: &["name"],
        columns: &["name", "value", "updated_at"],
    },
    Table {
        name: "credits",
        key: &["id"],
        columns: &[
            "id",
            "user_id",
            "per",
            "unit",
            "amount",
            "given_at",
            "counts_until",
        ],
    },
    Table {
        name: "grants",
        key: &["id"],
        columns: &[
            "id",
            "user_id",
            "source",
            "granted_micros",
            "refunded_micros",
            "spent_micros",
            "held_micros",
            "granted_at",
            "ends_at",
        ],
    },
    Table {
        name: "grant_uses",
        key: &["request_id", "grant_id"],
        columns: &["request_id", "grant_id", "held_micros", "spent_micros"],
    },
    Table {
        name: "admin_tokens",
        key: &["name"],
        columns: &[
            "name",
            "hash",
            "scope",
            "created_at",
            "last_used_at",
            "revoked_at",
        ],
    },
    Table {
        name: "audit",
        key: &["id"],
        columns: &["id", "at", "actor", "action", "user_id", "detail"],
    },
    Table {
        name: "device_keys",
        key: &["key_id"],
        columns: &["key_id", "user_id", "public_key", "counter", "used_at"],
    },
    Table {
        name: "users",
        key: &["user_id"],
        columns: &["user_id", "issuer", "subject", "seen_at"],
    },
    Table {
        name: "purchase_origins",
        key: &["store", "original_id"],
        columns: &[
            "store",
            "original_id",
            "owner",
            "owner_at",
            "user_id",
            "will_renew",
            "renew_at",
        ],
    },
    Table {
        name: "purchases",
        key: &["store", "transaction_id"],
        columns: &[
            "store",
            "transaction_id",
            "original_id",
            "product",
            "purchased_at",
            "quantity",
            "sandbox",
            "facts_at",
            "state",
            "state_at",
            "state_rank",
            "expires_at",
            "stopped_at",
            "share",
            "grace_until",
            "grace_at",
            "ends_at",
            "unsent",
            "revision",
        ],
    },
    Table {
        name: "purchase_moves",
        key: &["from_owner", "at", "to_owner"],
        columns: &["from_owner", "at", "to_owner"],
    },
    Table {
        name: "purchase_events",
        key: &["channel", "event_id"],
        columns: &[
            "channel",
            "event_id",
            "kind",
            "at",
            "received_at",
            "store",
            "transaction_id",
            "user_id",
            "outcome",
        ],
    },
];

/// Columns of text that may be null.
const NULLABLE_TEXTS: [&str; 11] = [
    "plan",
    "user_id",
    "requested_model",
    "feature",
    "prompt_version",
    "price_id",
    "plan_model",
    "owner",
    "product",
    "store",
    "transaction_id",
];

/// Sums that two ledgers with the same rows share: a row count for each table, and what requests and windows add up to.
const SUMS: &str = "
    select (select count(*) from ledger.requests),
           (select count(*) from ledger.windows),
           (select count(*) from ledger.subscriptions),
           (select cast(coalesce(sum(held_micros), 0) as bigint) from ledger.requests),
           (select cast(coalesce(sum(cost_micros), 0) as bigint) from ledger.requests),
           (select cast(coalesce(sum(input_tokens + output_tokens), 0) as bigint) from ledger.requests),
           (select cast(coalesce(sum(requests_used), 0) as bigint) from ledger.windows),
           (select cast(coalesce(sum(tokens_used), 0) as bigint) from ledger.windows),
           (select cast(coalesce(sum(micros_used), 0) as bigint) from ledger.windows),
           (select cast(coalesce(sum(requests_held + tokens_held + micros_held), 0) as bigint) from ledger.windows)";

/// A stopped ledger, open for being carried.
pub struct Still {
    db: Db,
    /// Nobody serves from the file meanwhile.
    _lock: Option<Lock>,
}

impl Still {
    /// Opens a ledger, and makes sure that nobody serves from it. For Postgres as [`crate::ledger::read::report::Reports::open`].
    ///
    /// # Errors
    /// Somebody serves from it, or it cannot be opened, or there is none.
    pub fn open(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) => file::require(path)?,
            StoreUrl::Postgres(url) => {
                crate::ledger::postgres::require(&crate::ledger::postgres::database(url)?)?;
            }
        }
        Self::open_or_make(store)
    }

    /// The same for a ledger that is brought here: where there is none, its tables are made.
    ///
    /// # Errors
    /// Somebody serves from it, or it cannot be opened.
    pub fn open_or_make(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) => {
                let lock = Lock::take(path)?;
                let (book, _) = Book::open_or_make(path, uuid::Uuid::nil())?;
                Ok(Self {
                    db: Db::Sqlite(Box::new(book)),
                    _lock: Some(lock),
                })
            }
            StoreUrl::Postgres(url) => {
                let db = crate::ledger::postgres::alone(url)?;
                let alive =
                    "select count(*) from ledger.owners where lease_until > ledger.clock_ms()";
                if db.query_one(alive, &[])?.map_or(Ok(0), |row| row.int(0))? > 0 {
                    let message = "a tollgate serves from this database: stop it, and wait until its lease has run out";
                    return Err(Failure::new(message.to_owned()));
                }
                Ok(Self { db, _lock: None })
            }
        }
    }

    /// Writes everything to `out`; gives back how many rows.
    ///
    /// # Errors
    /// The ledger cannot be read, or `out` cannot be written.
    pub fn export(
        &self,
        out: &mut impl Write,
        mut progress: impl FnMut(u64),
    ) -> Result<u64, Failure> {
        let mut digest = Context::new(&SHA256);
        let mut line = |value: Value| {
            let text = format!("{value}\n");
            digest.update(text.as_bytes());
            out.write_all(text.as_bytes())
                .map_err(|error| Failure::new(error.to_string()))
        };
        line(json!({ "format": FORMAT }))?;
        let mut rows_written: u64 = 0;
        for table in &TABLES {
            let mut after: Vec<Cell> = Vec::new();
            loop {
                let rows = self.db.query(&table.page(!after.is_empty()), &after)?;
                let Some(last) = rows.last() else { break };
                after = table.key_of(last.cells());
                for row in &rows {
                    line(json!([
                        table.name,
                        row.cells().iter().map(cell_json).collect::<Vec<_>>()
                    ]))?;
                }
                rows_written = rows_written.saturating_add(u64::try_from(rows.len()).unwrap_or(0));
                progress(rows_written);
            }
        }
        let end = json!({ "sums": self.sums()?, "sha256": hex(digest.finish().as_ref()) });
        writeln!(out, "{end}").map_err(|error| Failure::new(error.to_string()))?;
        Ok(rows_written)
    }

    /// Reads an export into this ledger, which must be empty; gives back how many rows.
    ///
    /// # Errors
    /// The ledger is not empty, or the text is not a whole export, or what was written adds up to something else; then
    /// the ledger is as before.
    pub fn import(self, text: impl BufRead, progress: impl FnMut(u64)) -> Result<u64, Failure> {
        if let Db::Sqlite(book) = &self.db {
            book.begin()?;
        }
        // What fails is taken back with the connection.
        if self.sums()?.iter().any(|sum| *sum != 0) {
            return Err(Failure::new(
                "the ledger is not empty: an import goes only into a new one".to_owned(),
            ));
        }
        let rows = self.fill(text, progress)?;
        match self.db {
            Db::Sqlite(book) => book.commit()?,
            Db::Transaction(transaction, runtime) => runtime.block_on(transaction.commit())?,
            Db::Postgres(..) => {}
        }
        Ok(rows)
    }

    fn fill(&self, text: impl BufRead, mut progress: impl FnMut(u64)) -> Result<u64, Failure> {
        self.empty()?;
        if let Db::Transaction(..) = self.db {
            // So that the triggers of migrations/postgres/0006_grants.sql leave windows as they are written.
            let sql = "select pg_catalog.set_config('tollgate.credits', 'on', true)";
            self.db.query(sql, &[])?;
        }
        let mut rows_read: u64 = 0;
        let mut batch: Vec<Vec<Cell>> = Vec::new();
        let mut of: Option<&Table> = None;
        let mut digest = Context::new(&SHA256);
        let mut lines = text.lines().enumerate();
        while let Some((place, line)) = lines.next() {
            let number = place.saturating_add(1);
            let wrong = |what: &str| Failure::new(format!("line {number} of the export {what}"));
            let line = line.map_err(|error| wrong(&format!("cannot be read: {error}")))?;
            let value: Value = serde_json::from_str(&line).map_err(|_| wrong("is not JSON"))?;
            if let Some(sums) = value.get("sums") {
                if lines.next().is_some() {
                    return Err(wrong("is its end, and more lines follow"));
                }
                if value.get("sha256") != Some(&Value::from(hex(digest.finish().as_ref()))) {
                    return Err(Failure::new(
                        "the export is not as it was written: nothing is kept".to_owned(),
                    ));
                }
                self.insert(of, &mut batch)?;
                return self.compare(sums).map(|()| rows_read);
            }
            digest.update(line.as_bytes());
            digest.update(b"\n");
            if place == 0 {
                let is_ours = value
                    .get("format")
                    .is_some_and(|format| format == FORMAT || format == OLDER_FORMAT);
                is_ours
                    .then_some(())
                    .ok_or_else(|| wrong("does not begin an export of this version"))?;
                continue;
            }
            let (table, cells) = row_of(&value).ok_or_else(|| wrong("is no row of a ledger"))?;
            if batch.len() == ROWS || of.is_some_and(|other| other.name != table.name) {
                self.insert(of, &mut batch)?;
                progress(rows_read);
            }
            of = Some(table);
            batch.push(cells);
            rows_read = rows_read.saturating_add(1);
        }
        Err(Failure::new(
            "the export ends before its sums: it was cut short".to_owned(),
        ))
    }

    fn insert(&self, table: Option<&Table>, batch: &mut Vec<Vec<Cell>>) -> Result<(), Failure> {
        let rows = std::mem::take(batch);
        let Some(table) = table.filter(|_| !rows.is_empty()) else {
            return Ok(());
        };
        // All rows of an export have the same.
        let columns = rows.first().map_or(0, Vec::len);
        let row = |row: usize| {
            let first = row.saturating_mul(columns);
            let values: Vec<_> = (1..=columns)
                .map(|column| format!("${}", first.saturating_add(column)))
                .collect();
            format!("({})", values.join(", "))
        };
        let values: Vec<String> = (0..rows.len()).map(row).collect();
        let sql = format!(
            "insert into ledger.{} ({}) values {}",
            table.name,
            table.columns.get(..columns).unwrap_or_default().join(", "),
            values.join(", ")
        );
        self.db
            .query(&sql, &rows.into_iter().flatten().collect::<Vec<_>>())?;
        Ok(())
    }

    fn empty(&self) -> Result<(), Failure> {
        for table in &TABLES {
            self.db
                .query(&format!("delete from ledger.{}", table.name), &[])?;
        }
        Ok(())
    }

    fn sums(&self) -> Result<Vec<i64>, Failure> {
        let row = self
            .db
            .query_one(SUMS, &[])?
            .ok_or_else(|| Failure::new("the ledger gives no sums".to_owned()))?;
        (0..row.cells().len())
            .map(|column| row.int(column))
            .collect()
    }

    fn compare(&self, said: &Value) -> Result<(), Failure> {
        let ours = self.sums()?;
        if *said == json!(ours) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "what was written adds up to {ours:?}, and the export says {said}: nothing is kept"
        )))
    }
}

impl Table {
    /// A page of rows in the order of the key, the first or the one after a key.
    fn page(&self, after: bool) -> String {
        let (columns, key) = (self.columns.join(", "), self.key.join(", "));
        let values: Vec<_> = (1..=self.key.len())
            .map(|place| format!("${place}"))
            .collect();
        let from = if after {
            format!("where ({key}) > ({})", values.join(", "))
        } else {
            String::new()
        };
        format!(
            "select {columns} from ledger.{} {from} order by {key} limit 1000",
            self.name
        )
    }

    fn key_of(&self, row: &[Cell]) -> Vec<Cell> {
        let place = |name: &&str| self.columns.iter().position(|column| column == name);
        self.key
            .iter()
            .filter_map(|name| row.get(place(name)?).cloned())
            .collect()
    }
}

fn cell_json(cell: &Cell) -> Value {
    match cell {
        Cell::Int(value) => json!(value),
        Cell::Text(value) => json!(value),
    }
}

/// The table and the values of a line of an export; numbers are whole.
fn row_of(value: &Value) -> Option<(&'static Table, Vec<Cell>)> {
    let [name, values] = value.as_array()?.as_slice() else {
        return None;
    };
    let table = TABLES.iter().find(|table| *name == *table.name)?;
    let cells = values
        .as_array()?
        .iter()
        .zip(table.columns)
        .map(|(value, column)| match value {
            Value::Number(number) => number.as_i64().map(|number| Cell::Int(Some(number))),
            Value::String(text) => Some(Cell::Text(Some(text.clone()))),
            Value::Null if NULLABLE_TEXTS.contains(column) => Some(Cell::Text(None)),
            Value::Null => Some(Cell::Int(None)),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
    let cells: Vec<Cell> = cells.collect::<Option<_>>()?;
    let is_whole = cells.len() == table.columns.len()
        || (table.name == "requests" && OLDER_REQUEST_COLUMNS.contains(&cells.len()));
    (is_whole && values.as_array()?.len() == cells.len()).then_some((table, cells))
}
