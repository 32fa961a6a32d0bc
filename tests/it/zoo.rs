//! Every family of providers, each with its own books (see [`crate::support::zoo`]): what a row says is what is billed.
//!
//! Each test plays many requests and looks at the ledger once; the oracle then compares every row with the books.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, User, and, chat};
use crate::support::door::Door;
use crate::support::oracle::{Row, invoice};
use crate::support::settings::Settings;
use crate::support::zoo::{self, FAMILIES, Family, Place, Scene, Stage};

/// Families whose way of reporting is not read yet.
const UNREAD: &[&str] = &["xai", "gemini", "deepseek", "moonshot", "groq", "vertex", "anthropic", "llamacpp"];

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().filter(|family| !UNREAD.contains(&family.name))
}

/// What came of one request.
struct Told {
    family: &'static Family,
    what: String,
    answer: Answer,
}

/// A door with every family behind it.
struct Zoo {
    door: Door,
    stage: Stage,
    alice: User,
    told: Vec<Told>,
    complaints: Vec<String>,
}

impl Zoo {
    async fn open(settings: Settings) -> Self {
        let families: Vec<&Family> = families().collect();
        let door = Door::open(zoo::with(settings, &families)).await;
        let (stage, alice) = (Stage::of(&door.upstream), door.user("alice"));
        Self { door, stage, alice, told: Vec::new(), complaints: Vec::new() }
    }

    /// A request to a family, and the scene that it will get.
    fn staged(&self, model: &str, scene: &Scene, fields: &Value) -> Value {
        let body = and(chat("tell me about it"), &json!({"model": model}));
        let body = and(body, fields);
        self.stage.plays(&body, scene.clone());
        body
    }

    async fn ask(&mut self, family: &'static Family, model: &str, scene: Scene, fields: Value) {
        let body = self.staged(model, &scene, &fields);
        let answer = self.alice.ask(body).await;
        let what = format!("{model} {fields} {scene:?}");
        self.told.push(Told { family, what, answer });
    }

    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// Looks at each request and its row, then asks the oracle.
    async fn close(mut self, look: impl Fn(&Told, &Row, i64) -> Result<(), String>) {
        let rows = self.door.quiet_rows().await;
        let log = self.door.upstream.log();
        for told in &self.told {
            let row = rows.iter().find(|row| Some(row.id) == told.answer.id());
            let served = log.iter().find(|served| served.seen.serial() == told.answer.serial);
            let (Some(row), Some(served)) = (row, served) else {
                self.complaints.push(format!("{}: no row, or never served: {}", told.what, told.answer.text()));
                continue;
            };
            let billed = invoice(served, (1_000_000, 100_000, 4_000_000));
            if let Err(what) = look(told, row, billed) {
                let said = told.answer.text();
                self.complaints.push(format!("{}: {what}: billed {billed}, {row:?}, {said:.300}", told.what));
            }
        }
        let (count, complaints) = (self.told.len(), self.complaints.join("\n- "));
        assert!(complaints.is_empty(), "of {count} requests:\n- {complaints}");
        self.door.close().await;
    }
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// The usage that a family tells is all there is to a charge; one that tells none is estimated.
fn is_charged_as_billed(told: &Told, row: &Row, billed: i64) -> Result<(), String> {
    if told.answer.status != 200 {
        return Err(format!("{}", told.answer.status));
    }
    if told.family.usage == Place::Never {
        let held = row.held_micros.unwrap_or(0);
        return ensure(row.has("estimated") && (1..=held).contains(&row.cost()), "not estimated within its hold");
    }
    ensure(row.state == "settled" && !row.has("estimated") && row.cost() == billed, "not what is billed")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_charged_as_its_books_say() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in families() {
        for stream in [false, true] {
            for scene in [
                Scene::words(7),
                Scene { cached: true, ..Scene::words(3) },
                Scene { thinks: 40, ..Scene::words(5) },
                Scene { thinks: 40, cached: true, ..Scene::words(5) },
                Scene { calls_a_tool: true, ..Scene::words(6) },
                Scene::words(0),
                // More than it may: the cap cuts it off.
                Scene::words(5000),
                Scene { thinks: 5000, ..Scene::words(5) },
            ] {
                let model = if scene.thinks > 0 { family.thinks() } else { family.talks() };
                zoo.ask(family, &model, scene, json!({"stream": stream, "max_tokens": 60})).await;
            }
        }
    }
    zoo.close(is_charged_as_billed).await;
}

/// When a caller leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    BeforeTheHead,
    AfterBlocks(usize),
}

/// Leaves every family, with a stream and without, at several points; waits until nobody works any more.
async fn leave_all(zoo: &mut Zoo, points: &[(bool, Leaves)], pause: Duration) {
    for family in families() {
        for (stream, point) in points {
            for thinks in [0, 8] {
                let model = if thinks > 0 { family.thinks() } else { family.talks() };
                let scene = Scene { thinks, pause, ..Scene::words(8) };
                let body = zoo.staged(&model, &scene, &json!({"stream": stream, "max_tokens": 60}));
                let serial = crate::support::caller::serial_in(body.to_string().as_bytes());
                match point {
                    Leaves::BeforeTheHead => {
                        let begun = zoo.alice.begin(body).await;
                        let upstream = &zoo.door.upstream;
                        upstream.until("it", |log| log.iter().any(|served| served.seen.serial() == serial)).await;
                        begun.hang_up();
                    }
                    Leaves::AfterBlocks(blocks) => {
                        let mut open = zoo.alice.open(body).await;
                        open.take(*blocks).await;
                        open.hang_up();
                    }
                }
            }
        }
    }
    zoo.door.upstream.until("the end", |log| log.iter().all(|served| served.finished || served.peer_left)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_pays_what_the_drained_answer_is_billed() {
    let mut zoo = Zoo::open(Settings::new()).await;
    let points = [
        (false, Leaves::BeforeTheHead),
        (true, Leaves::BeforeTheHead),
        (true, Leaves::AfterBlocks(1)),
        (true, Leaves::AfterBlocks(5)),
        (true, Leaves::AfterBlocks(9)),
    ];
    leave_all(&mut zoo, &points, Duration::from_millis(20)).await;
    let rows = zoo.door.quiet_rows().await;
    assert_eq!(rows.len(), families().count() * points.len() * 2);
    for row in rows {
        let tells = !row.model.as_deref().unwrap().starts_with("lmstudio");
        if row.state != "settled" || row.has("estimated") == tells {
            zoo.complain(format!("{row:?}"));
        }
    }
    zoo.close(|_, _, _| Ok(())).await;
}
