//! Every family of providers, each with its own books (see [`crate::support::zoo`]): what a row says is what is billed.
//!
//! Each test plays many requests and looks at the ledger once; the oracle then compares every row with the books.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, User, and, chat};
use crate::support::door::Door;
use crate::support::oracle::{Row, invoice};
use crate::support::reply::{Step, WORD};
use crate::support::settings::Settings;
use crate::support::zoo::troubles::SAID;
use crate::support::zoo::{self, FAMILIES, Family, Habit, Place, Scene, Stage, Trouble, Waits};

/// A PNG of one pixel.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// What came of one request.
struct Told {
    family: &'static Family,
    what: String,
    scene: Scene,
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
        let families: Vec<&Family> = FAMILIES.iter().collect();
        let door = Door::open(zoo::with(settings, &families)).await;
        let (stage, alice) = (Stage::of(&door.upstream), door.user("alice"));
        Self {
            door,
            stage,
            alice,
            told: Vec::new(),
            complaints: Vec::new(),
        }
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
        self.told.push(Told {
            family,
            what,
            scene,
            answer,
        });
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
            let served = log
                .iter()
                .find(|served| served.seen.serial() == told.answer.serial);
            let (Some(row), Some(served)) = (row, served) else {
                self.complaints.push(format!(
                    "{}: no row, or never served: {}",
                    told.what,
                    told.answer.text()
                ));
                continue;
            };
            let billed = invoice(served, (1_000_000, 100_000, 4_000_000));
            if let Err(what) = look(told, row, billed) {
                let said = told.answer.text();
                self.complaints.push(format!(
                    "{}: {what}: billed {billed}, {row:?}, {said:.300}",
                    told.what
                ));
            }
        }
        let (count, complaints) = (self.told.len(), self.complaints.join("\n- "));
        assert!(
            complaints.is_empty(),
            "of {count} requests:\n- {complaints}"
        );
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
        return ensure(
            row.has("estimated") && (1..=held).contains(&row.cost()),
            "not estimated within its hold",
        );
    }
    ensure(
        row.state == "settled" && !row.has("estimated") && row.cost() == billed,
        "not what is billed",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_charged_as_its_books_say() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for stream in [false, true] {
            for scene in [
                Scene::words(7),
                Scene {
                    cached: true,
                    ..Scene::words(3)
                },
                Scene {
                    thinks: 40,
                    ..Scene::words(5)
                },
                Scene {
                    thinks: 40,
                    cached: true,
                    ..Scene::words(5)
                },
                Scene {
                    calls_a_tool: true,
                    ..Scene::words(6)
                },
                Scene::words(0),
                // More than it may: the cap cuts it off.
                Scene::words(5000),
                Scene {
                    thinks: 5000,
                    ..Scene::words(5)
                },
            ] {
                let model = if scene.thinks > 0 {
                    family.thinks()
                } else {
                    family.talks()
                };
                zoo.ask(
                    family,
                    &model,
                    scene,
                    json!({"stream": stream, "max_tokens": 60}),
                )
                .await;
            }
        }
    }
    zoo.close(is_charged_as_billed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_gets_a_picture_and_is_charged_as_its_books_say() {
    // A picture of a model whose rule is not known is bounded by 16,384 tokens.
    let mut zoo = Zoo::open(Settings::new().with("plans.free.max_input_tokens = 32000")).await;
    for family in FAMILIES {
        for stream in [false, true] {
            let (model, scene) = (family.talks(), Scene::words(7));
            let mut body = zoo.staged(&model, &scene, &json!({"stream": stream, "max_tokens": 60}));
            let text = body["messages"][0]["content"].take();
            body["messages"][0]["content"] = json!([{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": PICTURE}}]);
            let answer = zoo.alice.ask(body).await;
            let what = format!("{model} {stream}");
            zoo.told.push(Told {
                family,
                what,
                scene,
                answer,
            });
        }
    }
    for served in zoo.door.upstream.log() {
        let sent = &served.seen.body["messages"][0]["content"][1]["image_url"]["url"];
        if sent != PICTURE {
            zoo.complain(format!("no picture in {}", served.seen.body));
        }
    }
    zoo.close(is_charged_as_billed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_reaches_every_family_by_a_name_that_it_knows() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for cap in ["max_tokens", "max_completion_tokens"] {
            for stream in [false, true] {
                zoo.ask(
                    family,
                    &family.talks(),
                    Scene::words(3),
                    json!({"stream": stream, cap: 1}),
                )
                .await;
            }
        }
    }
    for served in zoo.door.upstream.log() {
        let (family, capped) = (
            zoo::of(&served.seen).unwrap().name,
            zoo::of(&served.seen).unwrap().cap(&served.seen),
        );
        if capped != 1 {
            zoo.complain(format!(
                "{family} is capped to {capped}: {}",
                served.seen.body
            ));
        }
    }
    zoo.close(is_charged_as_billed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_before_the_work_is_free_and_after_it_is_not() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for trouble in Trouble::ALL.iter().filter(|trouble| trouble.is_of(family)) {
            for stream in [false, true] {
                let fields = json!({"stream": stream, "max_tokens": 60});
                zoo.ask(family, &family.talks(), Scene::trouble(*trouble), fields)
                    .await;
            }
        }
    }
    zoo.close(|told, row, billed| {
        let (trouble, held) = (told.scene.trouble.unwrap(), row.held_micros.unwrap());
        match trouble {
            Trouble::FilteredPrompt => ensure(
                row.state == "settled"
                    && row.has("estimated")
                    && row.output_tokens == Some(0)
                    && row.cost() > 0,
                "not the prompt",
            ),
            Trouble::FilteredOutput => {
                ensure(row.state == "settled" && row.cost() == held, "not the hold")
            }
            Trouble::ToolUseFailed | Trouble::CapReached | Trouble::TimedOut(_) => ensure(
                row.state == "lost" && row.cost() == held && billed <= held,
                "not lost",
            ),
            _ => ensure(row.state == "voided" && billed == 0, "not free"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_family_says_about_the_request_reaches_the_user_and_nothing_else_does() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for trouble in [
            Trouble::Invalid,
            Trouble::BadKey,
            Trouble::Busy,
            Trouble::Overloaded,
            Trouble::TooLarge,
            Trouble::Failure,
        ] {
            zoo.ask(family, &family.talks(), Scene::trouble(trouble), json!({}))
                .await;
        }
    }
    zoo.close(|told, _, _| {
        let answer = &told.answer;
        let said = answer.json()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .contains(SAID);
        let waits = answer.header("retry-after");
        match (told.scene.trouble.unwrap(), answer.status) {
            (Trouble::Invalid | Trouble::TooLarge, 400 | 422) => {
                ensure(said, "its message is lost")
            }
            (Trouble::BadKey | Trouble::Failure, 502) => {
                ensure(answer.code() == "upstream_error", "another code")
            }
            (Trouble::Busy, 503) => {
                let (Waits::Header(_, wanted) | Waits::Body(_, wanted)) = told.family.waits;
                ensure(waits == wanted, &format!("Retry-After {waits}"))
            }
            (Trouble::Overloaded, 502 | 503) => {
                ensure(waits == "11", &format!("Retry-After {waits}"))
            }
            (_, status) => Err(format!("answered {status}")),
        }
    })
    .await;
}

/// When a caller leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    BeforeTheHead,
    AfterBlocks(usize),
}

/// Leaves every family, with a stream and without, at several points; waits until nobody works any more.
async fn leave_all(zoo: &mut Zoo, points: &[(bool, Leaves)], pause: Duration) {
    for family in FAMILIES {
        for (stream, point) in points {
            for thinks in [0, 8] {
                let model = if thinks > 0 {
                    family.thinks()
                } else {
                    family.talks()
                };
                let scene = Scene {
                    thinks,
                    pause,
                    ..Scene::words(8)
                };
                let body = zoo.staged(&model, &scene, &json!({"stream": stream, "max_tokens": 60}));
                let serial = crate::support::caller::serial_in(body.to_string().as_bytes());
                match point {
                    Leaves::BeforeTheHead => {
                        let begun = zoo.alice.begin(body).await;
                        let upstream = &zoo.door.upstream;
                        upstream
                            .until("it", |log| {
                                log.iter().any(|served| served.seen.serial() == serial)
                            })
                            .await;
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
    zoo.door
        .upstream
        .until("the end", |log| {
            log.iter().all(|served| served.finished || served.peer_left)
        })
        .await;
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
    assert_eq!(rows.len(), FAMILIES.len() * points.len() * 2);
    for row in rows {
        let tells = !row.model.as_deref().unwrap().starts_with("lmstudio");
        if row.state != "settled" || row.has("estimated") == tells {
            zoo.complain(format!("{row:?}"));
        }
    }
    zoo.close(|_, _, _| Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_saw_is_charged_as_it_was_held() {
    let mut zoo = Zoo::open(Settings::new().with("proxy.drain_timeout = \"200ms\"")).await;
    leave_all(
        &mut zoo,
        &[
            (false, Leaves::BeforeTheHead),
            (true, Leaves::BeforeTheHead),
        ],
        Duration::from_millis(300),
    )
    .await;
    for row in zoo.door.quiet_rows().await {
        if row.cost_micros != row.held_micros || !row.is_charged() {
            zoo.complain(format!("{row:?}"));
        }
    }
    zoo.close(|_, _, _| Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_is_charged_for_what_was_heard_or_as_it_was_held() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for after in [0, 3, 12] {
            for thinks in [0, 8] {
                let model = if thinks > 0 {
                    family.thinks()
                } else {
                    family.talks()
                };
                let step = if after == 3 { Step::Close } else { Step::Reset };
                let scene = Scene {
                    thinks,
                    cut: Some((after, step)),
                    mute: true,
                    ..Scene::words(20)
                };
                zoo.ask(
                    family,
                    &model,
                    scene,
                    json!({"stream": true, "max_tokens": 60}),
                )
                .await;
            }
        }
    }
    zoo.close(|told, row, _| {
        let hides = told.scene.thinks > 0 && told.family.shows.is_empty();
        let (held, saw_nothing) = (
            row.held_micros,
            told.scene
                .cut
                .as_ref()
                .is_some_and(|(after, _)| *after == 0),
        );
        ensure(row.is_charged() && row.cost() > 0, "free")?;
        ensure(
            !(hides || saw_nothing) || row.cost_micros == held,
            "unseen work, and not the hold",
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gateways_do_to_an_answer_changes_no_price() {
    let mut zoo = Zoo::open(Settings::new()).await;
    let is_of_a_report = |habit: &&Habit| matches!(habit, Habit::PromptOfNone | Habit::EndsEarly);
    for habit in Habit::ALL
        .iter()
        .copied()
        .filter(|habit| !is_of_a_report(&habit))
    {
        for family in FAMILIES {
            let scene = Scene {
                habit,
                cached: true,
                ..Scene::words(5)
            };
            zoo.ask(
                family,
                &family.talks(),
                scene,
                json!({"stream": true, "max_tokens": 60}),
            )
            .await;
        }
    }
    zoo.close(|told, row, billed| {
        let last = told.answer.events().pop();
        ensure(last.as_deref() == Some("[DONE]"), "no [DONE] at the end")?;
        // What is no JSON passes as it came, and is not read here either.
        let heard = if told.scene.habit == Habit::Infinity {
            4
        } else {
            5
        };
        ensure(
            told.answer.said() == WORD.repeat(heard),
            "not all that was said",
        )?;
        // One that tells its usage as it goes has told it all before any gateway moves the last of it.
        is_charged_as_billed(told, row, billed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_report_leaves_out_is_estimated_and_the_rest_stands() {
    let mut zoo = Zoo::open(Settings::new()).await;
    for family in FAMILIES {
        for stream in [false, true] {
            for habit in [Habit::PromptOfNone, Habit::EndsEarly] {
                let scene = Scene {
                    habit,
                    ..Scene::words(30)
                };
                zoo.ask(
                    family,
                    &family.talks(),
                    scene,
                    json!({"stream": stream, "max_tokens": 60}),
                )
                .await;
            }
        }
    }
    zoo.close(|told, row, _| {
        let ends = !told.answer.events().is_empty();
        ensure(
            told.answer.status == 200 && row.state == "settled",
            "not settled",
        )?;
        ensure(
            !ends || told.answer.events().last().unwrap() == "[DONE]",
            "no [DONE] at the end",
        )?;
        let output = row.output_tokens.unwrap();
        ensure(
            output == 30 && row.input_tokens.unwrap() > 0,
            "a part is missing",
        )
    })
    .await;
}

/// The page is for operators: it names every family, and configures it as it is tried here.
#[test]
fn the_page_of_providers_has_every_family() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/providers.md")).unwrap();
    for family in FAMILIES {
        let plain = |text: &str| text.to_lowercase().replace([' ', '.'], "");
        let rows: Vec<&str> = page
            .lines()
            .filter(|line| plain(line).starts_with(&format!("|{}", family.name)))
            .collect();
        assert_eq!(rows.len(), 2, "{} has a row in each table", family.name);
        assert!(
            rows[0].contains(family.settings),
            "{}: {}",
            family.name,
            rows[0]
        );
    }
}
