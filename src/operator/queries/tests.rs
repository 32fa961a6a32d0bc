//! The operator's functions, on both databases.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers, in a test")]

use std::path::PathBuf;

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::series::{Interval, Steps, series};
use super::sums::{GroupBy, UsageFilter};
use super::users::Sort;
use super::*;
use crate::config::{Config, Sources, StoreUrl};
use crate::ledger::EndState;
use crate::ledger::read::connection::Cell;
use crate::ledger::read::report::{By, Desk, Reports, SubscriptionRow};
use crate::pg;
use crate::plan::{
    Credit, DatabaseAnswer, DayRange, Limit, Period, Plan, PlanSources, Plans, Unit, plan_for,
};

const NOW: &str = "2026-11-24T12:00:00Z";
const TABLES: [&str; 7] = [
    "requests",
    "windows",
    "subscriptions",
    "credits",
    "grants",
    "admin_tokens",
    "audit",
];

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn by(at: Timestamp) -> By<'static> {
    By { name: "a test", at }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A ledger that is empty but for what a test puts in, open for changing and for looking.
struct Room {
    desk: Desk,
    reports: Reports,
    config: Config,
    made: std::cell::Cell<u64>,
}

impl Room {
    fn new(store: &StoreUrl) -> Self {
        let (desk, _) = Desk::open_or_make(store).unwrap();
        for table in TABLES {
            desk.db()
                .query(&format!("delete from ledger.{table}"), &[])
                .unwrap();
        }
        let env = [
            ("JWT_SECRET", "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa"),
            ("OPENAI_API_KEY", "sk-1"),
        ];
        let env = env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let sources = Sources {
            file: None,
            env,
            directory: PathBuf::from("/nowhere-at-all"),
        };
        let config = Config::load(&sources).unwrap();
        Self {
            desk,
            reports: Reports::open(store).unwrap(),
            config,
            made: std::cell::Cell::default(),
        }
    }

    /// A request of one user; what it cost; when it was held.
    fn row(&self, user: u128, (state, model): (&str, &str), cost: i64, moment: &str) -> String {
        let moment = at(moment);
        self.made.set(self.made.get() + 1);
        let counter = self.made.get().to_be_bytes().repeat(2)[6..16]
            .try_into()
            .unwrap();
        let ms = u64::try_from(moment.millis()).unwrap();
        let id = uuid::Builder::from_unix_timestamp_millis(ms, &counter)
            .into_uuid()
            .to_string();
        let ended: Option<i64> = (state != "held").then(|| moment.millis() + 5);
        let sql = "insert into ledger.requests (id, user_id, plan, endpoint, model, upstream, state, flags,
                       held_input_tokens, held_output_tokens, held_micros, input_tokens, cached_input_tokens,
                       output_tokens, cost_micros, started_at, ended_at, ttft_ms, owner)
                   values ($1, $2, 'free', '/v1/chat/completions', $3, 'openai', $4, $5, 10, 20, $6, 7, 3, 5, $6, $7,
                           $8, $9, 'o')";
        let flags = if cost % 2 == 1 {
            "cancelled,estimated"
        } else {
            ""
        };
        let params: [Cell; 9] = [
            id.clone().into(),
            super::tests::id(user).to_string().into(),
            model.into(),
            state.into(),
            flags.into(),
            cost.into(),
            moment.millis().into(),
            ended.into(),
            Some(cost).into(),
        ];
        self.desk.db().query(sql, &params).unwrap();
        let window = "insert into ledger.windows (user_id, ends_at, per, starts_at) select $1, $2, 'lifetime', 0
                      where not exists (select 1 from ledger.windows where user_id = $1 and per = 'lifetime')";
        let user = super::tests::id(user).to_string();
        self.desk
            .db()
            .query(window, &[user.into(), Timestamp::MAX.millis().into()])
            .unwrap();
        id
    }

    fn users(&self, search: &str, sort: Sort, slice: &Slice) -> Page<users::UserRow> {
        users::list(&self.reports, &self.config, (search, sort), slice, at(NOW)).unwrap()
    }

    fn usage(&self, by: GroupBy, zone: &str, slice: &Slice) -> Page<usage::UsageRow> {
        let wanted = UsageFilter {
            by,
            from: Timestamp::EPOCH,
            until: Timestamp::MAX,
            user: None,
        };
        usage::list(&self.reports, wanted, &TimeZone::get(zone).unwrap(), slice).unwrap()
    }
}

/// Tries a test on a file and, where one is installed, on Postgres.
fn on_both(test: impl Fn(&Room)) {
    let folder = std::env::temp_dir().join(format!("tollgate-operator-{}", Uuid::now_v7()));
    test(&Room::new(&StoreUrl::Sqlite(folder.join("ledger.db"))));
    std::fs::remove_dir_all(folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let Some(server) = pg::tests::Postgres::start(&[]) else {
        return;
    };
    test(&Room::new(&StoreUrl::Postgres(server.url(""))));
}

fn all() -> Slice {
    Slice::new(Some(Slice::MAX), None)
}

#[test]
fn everybody_is_listed_once_with_what_they_spent_in_any_order_and_page_by_page() {
    on_both(|room| {
        room.row(1, ("settled", "a"), 100, "2026-11-24T01:00:00Z");
        room.row(1, ("settled", "a"), 400, "2026-11-02T01:00:00Z");
        room.row(2, ("lost", "a"), 900, "2026-11-20T01:00:00Z");
        room.row(3, ("settled", "a"), 9_000, "2026-10-31T23:59:59Z");
        room.row(4, ("voided", "a"), 0, "2026-11-24T11:00:00Z");
        users::set_blocked(&room.desk, id(5), true, by(at(NOW))).unwrap();
        let listed = room.users("", Sort::Spend, &all());
        let ids = |page: &Page<users::UserRow>| {
            page.rows
                .iter()
                .map(|row| row.id.clone())
                .collect::<Vec<_>>()
        };
        let expected = |numbers: [u128; 5]| numbers.map(|number| id(number).to_string()).to_vec();
        assert_eq!(ids(&listed), expected([2, 1, 3, 4, 5]));
        assert_eq!(listed.next, None);
        let first = &listed.rows[1];
        assert_eq!(
            (first.requests_today, first.cost_usd_today.as_str()),
            (1, "0.000100")
        );
        assert_eq!(first.cost_usd_month, "0.000500");
        assert_eq!(
            first.last_request_at.as_deref(),
            Some("2026-11-24T01:00:00Z")
        );
        let fifth = &listed.rows[4];
        assert!(
            fifth.blocked && fifth.plan == "free" && fifth.last_request_at.is_none(),
            "{fifth:?}"
        );
        assert_eq!(
            ids(&room.users("", Sort::Recent, &all())),
            expected([4, 1, 2, 3, 5])
        );
        for sort in [Sort::Spend, Sort::Recent] {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let page = room.users("", sort, &Slice::new(Some(2), cursor));
                seen.extend(ids(&page));
                let Some(next) = page.next else { break };
                cursor = Some(Cursor::parse(&next).unwrap());
            }
            assert_eq!(seen, ids(&room.users("", sort, &all())), "{sort:?}");
        }
        let third = id(3).to_string();
        assert_eq!(
            ids(&room.users(&third.to_uppercase(), Sort::Spend, &all())),
            [third]
        );
        assert!(room.users("7", Sort::Spend, &all()).rows.is_empty());
    });
}

#[test]
fn usage_adds_up_by_day_user_model_and_plan() {
    on_both(|room| {
        // In Auckland, 13 hours ahead, these are two days; in UTC one.
        room.row(1, ("settled", "a"), 100, "2026-11-23T10:30:00Z");
        room.row(1, ("settled", "b"), 200, "2026-11-23T11:30:00Z");
        room.row(2, ("lost", "b"), 50, "2026-11-01T00:00:00Z");
        room.row(2, ("voided", "c"), 0, "2026-11-23T11:30:00Z");
        room.row(2, ("held", "c"), 7_000, "2026-11-23T11:30:00Z");
        let rows = |by, zone| {
            let page = room.usage(by, zone, &all());
            page.rows
                .into_iter()
                .map(|row| (row.key, row.requests, row.cost_usd))
                .collect::<Vec<_>>()
        };
        let row = |key: &str, requests, cost: &str| (key.to_owned(), requests, cost.to_owned());
        assert_eq!(
            rows(GroupBy::Day, "UTC"),
            [
                row("2026-11-23", 2, "0.000300"),
                row("2026-11-01", 1, "0.000050")
            ]
        );
        let auckland = rows(GroupBy::Day, "Pacific/Auckland");
        assert_eq!(
            auckland[..2],
            [
                row("2026-11-24", 1, "0.000200"),
                row("2026-11-23", 1, "0.000100")
            ]
        );
        assert_eq!(
            rows(GroupBy::Model, "UTC"),
            [row("b", 2, "0.000250"), row("a", 1, "0.000100")]
        );
        assert_eq!(rows(GroupBy::Plan, "UTC"), [row("free", 3, "0.000350")]);
        let (one, two) = (id(1).to_string(), id(2).to_string());
        assert_eq!(
            rows(GroupBy::User, "UTC"),
            [row(&one, 2, "0.000300"), row(&two, 1, "0.000050")]
        );
        for key in [GroupBy::Day, GroupBy::Model, GroupBy::User] {
            let first = room.usage(key, "UTC", &Slice::new(Some(1), None));
            let next = Cursor::parse(&first.next.unwrap());
            let second = room.usage(key, "UTC", &Slice::new(Some(1), next));
            assert_eq!(
                (second.next, second.rows[0].key.as_str()),
                (None, rows(key, "UTC")[1].0.as_str())
            );
        }
    });
}

#[test]
fn a_series_has_every_step_and_none_of_its_days_is_cut_by_a_change_of_the_clock() {
    on_both(|room| {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        // The clocks went back on the 25th, a day of 25 hours.
        room.row(1, ("settled", "a"), 100, "2026-10-24T22:00:00Z");
        room.row(1, ("lost", "a"), 201, "2026-10-25T22:59:59Z");
        room.row(1, ("settled", "a"), 400, "2026-10-25T23:00:00Z");
        let days = |from: &str, to: &str| {
            let range = DayRange::new(from.parse().unwrap(), to.parse().unwrap())?;
            Steps::new(Interval::Day, range, &zone)
        };
        let told = series(&room.reports, &days("2026-10-24", "2026-10-27").unwrap()).unwrap();
        let rows: Vec<_> = told
            .rows
            .iter()
            .map(|row| (row.at.as_str(), row.requests, row.cost_usd.as_str()))
            .collect();
        assert_eq!(
            rows,
            [
                ("2026-10-23T22:00:00Z", 0, "0.000000"),
                ("2026-10-24T22:00:00Z", 2, "0.000301"),
                ("2026-10-25T23:00:00Z", 1, "0.000400"),
                ("2026-10-26T23:00:00Z", 0, "0.000000")
            ]
        );
        let second = &told.rows[1];
        assert_eq!(
            (second.lost, second.estimated, second.ttft_p50_ms),
            (1, 1, Some(100))
        );
        // An answer may begin within the first milliseconds, and its median is not nothing.
        room.desk
            .db()
            .query("update ledger.requests set ttft_ms = 2", &[])
            .unwrap();
        let told = series(&room.reports, &days("2026-10-24", "2026-10-27").unwrap()).unwrap();
        assert_eq!(told.rows[1].ttft_p50_ms, Some(2));
        let day = "2026-10-25".parse().unwrap();
        let hours = series(
            &room.reports,
            &Steps::new(Interval::Hour, DayRange::new(day, day).unwrap(), &zone).unwrap(),
        )
        .unwrap();
        let counts: Vec<_> = hours.rows.iter().map(|row| row.requests).collect();
        assert_eq!(
            (
                counts.len(),
                counts[0],
                counts[24],
                counts.iter().sum::<i64>()
            ),
            (25, 1, 1, 2)
        );
        assert!(
            days("2026-10-25", "2026-10-24").is_err() && days("2020-01-01", "2026-10-24").is_err()
        );
    });
}

#[test]
fn requests_are_told_newest_first_and_open_ones_with_what_they_hold() {
    on_both(|room| {
        let first = room.row(1, ("settled", "a"), 100, "2026-11-24T10:00:00Z");
        let second = room.row(2, ("settled", "a"), 100, "2026-11-24T11:00:00Z");
        let third = room.row(1, ("held", "a"), 7_000, "2026-11-24T11:59:00Z");
        let ids = |user: Option<u128>, state, limit, cursor: Option<String>| {
            let wanted = requests::RequestFilter {
                user: user.map(id),
                state,
            };
            let slice = Slice::new(
                Some(limit),
                cursor.map(|cursor| Cursor::parse(&cursor).unwrap()),
            );
            let page = requests::list(&room.reports, wanted, &slice).unwrap();
            (
                page.rows.into_iter().map(|row| row.id).collect::<Vec<_>>(),
                page.next,
            )
        };
        for user in [None, Some(1)] {
            let (newest, next) = ids(user, None, 1, None);
            assert_eq!(newest, std::slice::from_ref(&third));
            let rest = if user.is_none() {
                vec![second.clone(), first.clone()]
            } else {
                vec![first.clone()]
            };
            assert_eq!(ids(user, None, 9, next), (rest, None));
        }
        assert_eq!(
            ids(None, Some(EndState::Held), 9, None).0,
            std::slice::from_ref(&third)
        );
        assert_eq!(
            ids(Some(2), Some(EndState::Lost), 9, None).0,
            Vec::<String>::new()
        );
        let open = requests::open(&room.reports, at(NOW)).unwrap();
        let row = &open[0];
        assert_eq!(
            (open.len(), &row.id, row.seconds, row.held_usd.as_str()),
            (1, &third, 60, "0.007000")
        );
        let day = overview::overview(&room.reports, &room.config, at(NOW)).unwrap();
        let today = &day.today;
        assert_eq!((today.requests, today.users, day.open), (2, 2, 1));
        assert_eq!(
            (today.cost_usd.as_str(), day.ttft_ms.unwrap().p50),
            ("0.000200", 100)
        );
        let ceiling = day.ceiling.unwrap();
        assert_eq!(
            (ceiling.used.as_str(), ceiling.held.as_str()),
            ("0.000200", "0.007000")
        );
    });
}

#[test]
fn a_credit_raises_one_limit_until_its_window_ends() {
    on_both(|room| {
        let give = |per, unit, amount| {
            users::raise(
                &room.desk,
                id(1),
                (per, unit, amount),
                &TimeZone::UTC,
                by(at(NOW)),
            )
            .unwrap()
        };
        let limit = |user, per: &str, now: &str| {
            let page = users::user(&room.reports, &room.config, id(user), at(now)).unwrap();
            let found = page
                .limits
                .iter()
                .find(|limit| limit["per"] == per)
                .unwrap()["limit"]
                .clone();
            (found, page.credits.len())
        };
        let unraised = limit(1, "day", NOW);
        assert_eq!(unraised, (serde_json::json!(50), 0));
        assert_eq!(
            give(Per::Day, Unit::Requests, 7).until.as_deref(),
            Some("2026-11-25T00:00:00Z")
        );
        give(Per::Day, Unit::Requests, 3);
        give(Per::Day, Unit::Tokens, 1_000);
        assert_eq!(give(Per::Month, Unit::CostUsd, 250_000).amount, "0.250000");
        assert_eq!(give(Per::Period, Unit::CostUsd, 1).until, None);
        assert_eq!(limit(1, "day", "2026-11-24T23:59:59Z").0, 60);
        assert_eq!(limit(1, "month", "2026-11-30T23:59:59Z").0, "0.750000");
        assert_eq!(limit(1, "day", "2026-11-25T00:00:00Z").0, 50);
        assert_eq!(limit(1, "month", "2026-12-01T00:00:00Z").0, "0.500000");
        assert_eq!(limit(2, "day", NOW).0, 50);
        assert_eq!(limit(1, "day", NOW).1, 5);
    });
}

#[test]
fn a_credit_raises_limits_and_periods_of_the_developers_own_database_too() {
    let day = |day: u8| at(&format!("2026-11-{day:02}T00:00:00Z"));
    let limit = |per, unit| Limit::of_all(per, unit, 5);
    let assigned = DatabaseAnswer {
        plan: None,
        period: Some(Period {
            start: day(5),
            end: day(25),
        }),
        limits: Some(vec![
            limit(Per::Period, Unit::Requests),
            limit(Per::Period, Unit::Tokens),
        ]),
    };
    let credit = Credit {
        per: Per::Period,
        unit: Unit::Requests,
        amount: i64::MAX,
        given_at: day(6),
    };
    let looked = PlanSources {
        database: Some(assigned),
        credits: vec![credit],
        ..PlanSources::default()
    };
    let plan = Plan {
        name: "free".to_owned(),
        models: vec!["m".to_owned()],
        max_output_tokens: 1,
        max_input_tokens: 1,
        max_choices: 1,
        images: crate::plan::ImageCaps::default(),
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: None,
        limits: Vec::new(),
    };
    let plans = Plans {
        by_name: std::collections::BTreeMap::new(),
        default: std::sync::Arc::new(plan),
    };
    let granted = plan_for(&looked, &plans);
    let amounts = |moment| {
        let limits = granted.limits_at(moment, &TimeZone::UTC);
        limits
            .into_iter()
            .map(|(limit, _)| limit.amount)
            .collect::<Vec<_>>()
    };
    // Sums saturate.
    assert_eq!(amounts(day(24)), [i64::MAX, 5]);
    // After the period the month is its window, and the credit was given in that too.
    assert_eq!(amounts(day(25)), [i64::MAX, 5]);
    assert_eq!(amounts(at("2026-12-01T00:00:00Z")), [5, 5]);
    assert_eq!(amounts(day(4)), [i64::MAX, 5]);
}

#[test]
fn every_change_leaves_a_row_that_says_who_did_what() {
    on_both(|room| {
        let row = SubscriptionRow {
            plan: Some("free".to_owned()),
            until: Some(at(NOW)),
            ..SubscriptionRow::default()
        };
        users::set_plan(&room.desk, id(1), &row, by(at(NOW))).unwrap();
        users::set_plan(&room.desk, id(1), &SubscriptionRow::default(), by(at(NOW))).unwrap();
        users::set_blocked(&room.desk, id(1), true, by(at(NOW))).unwrap();
        pause::pause(&room.desk, "why not", by(at(NOW))).unwrap();
        assert!(pause::resume(&room.desk, by(at(NOW))).unwrap());
        // Nothing changed, so there is nothing to note.
        assert!(!pause::resume(&room.desk, by(at(NOW))).unwrap());
        let told = audit::list(&room.reports, &all()).unwrap().rows;
        let actions: Vec<_> = told.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!(actions, ["resume", "pause", "block", "plan", "plan"]);
        let taken = &told[3];
        assert_eq!(
            (taken.by.as_str(), taken.user_id.clone()),
            ("a test", Some(id(1).to_string()))
        );
        assert_eq!(
            taken.detail["before"],
            serde_json::json!({"plan": "free", "until": NOW})
        );
        assert_eq!(taken.detail["after"]["plan"], serde_json::Value::Null);
        let first = audit::list(&room.reports, &Slice::new(Some(4), None)).unwrap();
        let rest = audit::list(
            &room.reports,
            &Slice::new(None, Cursor::parse(&first.next.unwrap())),
        )
        .unwrap();
        assert_eq!((first.rows.len(), rest.rows.len()), (4, 1));
    });
}

#[test]
fn a_change_that_cannot_be_noted_is_not_made() {
    on_both(|room| {
        let failed = room.desk.change::<()>(by(at(NOW)), ("block", Some(id(1))), |db| {
            db.query("insert into ledger.switches (name, value, updated_at) values ('paused', 'x', 1)", &[])?;
            Err(Failure::new("the second step fails".to_owned()))
        });
        assert!(failed.is_err());
        assert!(
            overview::overview(&room.reports, &room.config, at(NOW))
                .unwrap()
                .paused
                .is_none()
        );
        // And the connection is as good as before.
        users::set_blocked(&room.desk, id(1), true, by(at(NOW))).unwrap();
    });
}

#[test]
fn a_token_is_kept_as_a_hash_and_good_until_it_is_revoked() {
    on_both(|room| {
        let make = |name, scope| tokens::create(&room.desk, name, scope, by(at(NOW))).unwrap();
        let token = make("laptop", tokens::Scope::Read)
            .unwrap()
            .expose_secret()
            .to_owned();
        assert!(token.starts_with("tga_") && token.len() == 47, "{token}");
        assert!(
            make("laptop", tokens::Scope::Write).is_none(),
            "a name is taken"
        );
        let verify = |token: &str, now| tokens::verify(&room.desk, token, now).unwrap();
        let bearer = tokens::Bearer {
            name: "laptop".to_owned(),
            scope: tokens::Scope::Read,
        };
        let last_used = || tokens::list(&room.reports).unwrap()[0].last_used_at.clone();
        assert_eq!(last_used(), None);
        assert_eq!(verify(&token, at(NOW)), Some(bearer));
        verify(&token, at("2026-11-24T12:00:59Z"));
        assert_eq!(last_used().as_deref(), Some(NOW), "at most once a minute");
        verify(&token, at("2026-11-24T12:01:00Z"));
        assert_eq!(last_used().as_deref(), Some("2026-11-24T12:01:00Z"));
        for wrong in [
            "",
            "tga_",
            token.get(..46).unwrap(),
            &token.to_uppercase(),
            &format!("{token}x"),
        ] {
            assert_eq!(verify(wrong, at(NOW)), None, "{wrong}");
        }
        let kept = room
            .desk
            .db()
            .query("select name, hash, scope from ledger.admin_tokens", &[])
            .unwrap();
        assert!(
            !format!("{kept:?}").contains(token.trim_start_matches("tga_")),
            "only its hash is kept"
        );
        assert!(tokens::any(&room.desk).unwrap());
        assert!(tokens::revoke(&room.desk, "laptop", by(at(NOW))).unwrap());
        assert!(!tokens::revoke(&room.desk, "laptop", by(at(NOW))).unwrap());
        assert_eq!(verify(&token, at(NOW)), None);
        assert!(!tokens::any(&room.desk).unwrap() && make("laptop", tokens::Scope::Read).is_none());
    });
}
