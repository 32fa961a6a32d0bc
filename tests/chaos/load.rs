//! Callers of every kind, and an upstream that treats each request as that request says.
//!
//! What a caller does next follows from its dice alone, and how the upstream answers stands in the prompt: so a seed
//! repeats both.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::endpoints::{self, Ask};
use crate::script::Mood;
use crate::support::caller::{Answer, Call, User, and, chat};
use crate::support::door::Door;
use crate::support::load::Dice;
use crate::support::oracle::REFUSALS;
use crate::support::pictures;
use crate::support::reply::{GARBAGE, Reply, Step, Talk};
use crate::support::tokens;
use crate::support::transcriptions;
use crate::support::upstream::Seen;
use crate::support::zoo::{self, Family, Habit, Scene, Trouble};
use crate::world::World;

/// A plan, and its limits as [`plans`] writes them: the ground truth of the live check.
pub(crate) struct PlanFacts {
    pub(crate) name: &'static str,
    pub(crate) concurrent: i64,
    /// Window, unit, amount (in requests, tokens or micro-dollars).
    pub(crate) limits: &'static [(&'static str, &'static str, i64)],
}

/// Small enough that most users run into them.
pub(crate) const PLANS: &[PlanFacts] = &[
    PlanFacts {
        name: "requests",
        concurrent: 4,
        limits: &[("minute", "requests", 12), ("day", "requests", 20)],
    },
    PlanFacts {
        name: "tokens",
        concurrent: 6,
        limits: &[("hour", "tokens", 7_000), ("lifetime", "tokens", 12_000)],
    },
    PlanFacts {
        name: "dollars",
        concurrent: 5,
        limits: &[("day", "cost_usd", 6_000), ("month", "cost_usd", 10_000)],
    },
    PlanFacts {
        name: "narrow",
        concurrent: 1,
        limits: &[("lifetime", "requests", 60)],
    },
    PlanFacts {
        name: "mixed",
        concurrent: 3,
        limits: &[
            ("minute", "tokens", 6_000),
            ("day", "requests", 30),
            ("lifetime", "cost_usd", 9_000),
        ],
    },
    PlanFacts {
        name: "free",
        concurrent: 8,
        limits: &[("month", "cost_usd", 100_000_000)],
    },
    // What a plan pays here is soon spent: most is paid by credits.
    PlanFacts {
        name: "credits",
        concurrent: 4,
        limits: &[("month", "cost_usd", 300)],
    },
];

/// What the whole app may spend in a day, in micro-dollars.
pub(crate) const CEILING: i64 = 600_000;

/// New users come so often, so that there are always some whose limits are not used up.
pub(crate) const GENERATION: Duration = Duration::from_secs(4);
const USERS_OF_A_PLAN: u64 = 2;
pub(crate) const CALLERS: u64 = 14;

/// The model that is asked when the plain one fails.
const OTHER: &str = "other-1";

/// Every model that is asked for, as TOML.
fn models(families: &[&Family]) -> String {
    let of_families = families
        .iter()
        .flat_map(|family| [family.talks(), family.thinks()]);
    let models = ["gpt-4o-mini", "gpt-4o", "either"].iter();
    let models = models.chain(&endpoints::MODELS);
    let models = models.map(|name| (*name).to_owned()).chain(of_families);
    models
        .map(|model| format!("{model:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The upstreams as settings: one that may say anything, and the families.
pub(crate) fn upstreams(families: &[&Family]) -> String {
    let plain = "[[upstreams]]\nname = \"plain\"\nbase_url = \"{upstream}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
                 models = [\"gpt-4o*\"]\ndialect = \"openai\"\n";
    // A name that is answered by one who is never there, by the plain one, or by another, who is as moody.
    let either = format!(
        "[[upstreams]]\nname = \"gone\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"gone-1\"]\n\
         [[upstreams]]\nname = \"other\"\nbase_url = \"{{upstream}}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
         models = [\"{OTHER}\"]\ndialect = \"openai\"\n\
         [models.either]\nuse = [\"gone-1\", \"gpt-4o-mini\", \"{OTHER}\"]\n\
         [prices.gone-1]\ninput = \"0.3\"\noutput = \"0.4\"\n\
         [prices.{OTHER}]\ninput = \"0.2\"\noutput = \"0.8\"\n"
    );
    // Its two models and no other: a name that two upstreams serve would be asked of both.
    let others = families.iter().map(|family| {
        let (all, both) = (
            format!("{}-*", family.name),
            [family.talks(), family.thinks()],
        );
        family.upstream().replace(&all, &both.join("\", \""))
    });
    let prices = families.iter().map(|family| family.prices());
    let endpoints = [endpoints::UPSTREAMS, transcriptions::PRICES].map(str::to_owned);
    [plain.to_owned(), either]
        .into_iter()
        .chain(endpoints)
        .chain(others)
        .chain(prices)
        .collect()
}

/// The plans as settings.
pub(crate) fn plans(families: &[&Family]) -> String {
    let (models, mut text) = (models(families), String::new());
    for plan in PLANS {
        let limits: Vec<String> = plan
            .limits
            .iter()
            .map(|(per, unit, amount)| match *unit {
                "cost_usd" => {
                    format!(
                        "{{ per = \"{per}\", cost_usd = \"{}.{:06}\" }}",
                        amount / 1_000_000,
                        amount % 1_000_000
                    )
                }
                unit => format!("{{ per = \"{per}\", {unit} = {amount} }}"),
            })
            .collect();
        let _ = writeln!(
            text,
            "[plans.{}]\nmodels = [{models}]\nmax_output_tokens = 200\nmax_choices = 2\nmax_images = 2\n\
             concurrent_requests = {}\nlimits = [{}]",
            plan.name,
            plan.concurrent,
            limits.join(", ")
        );
    }
    text
}

/// Everybody who will ever ask: by generation, plan and number.
pub(crate) struct Crowd {
    users: Vec<Vec<Vec<User>>>,
    families: Vec<&'static Family>,
}

impl Crowd {
    /// Users for a run of such a length.
    pub(crate) fn of(door: &Door, length: Duration, families: Vec<&'static Family>) -> Self {
        let generations = length.as_secs() / GENERATION.as_secs() + 1;
        // Good whatever the product's clock says.
        let always = json!({"iat": 1_500_000_000, "exp": 4_000_000_000_u64});
        let user = |generation: u64, plan: &PlanFacts, number: u64| {
            let claims = and(
                always.clone(),
                &json!({"app_metadata": {"plan": plan.name}}),
            );
            door.user_with(&format!("{}-{generation}-{number}", plan.name), &claims)
        };
        let users = (0..generations).map(|generation| {
            PLANS
                .iter()
                .map(|plan| {
                    (0..USERS_OF_A_PLAN)
                        .map(|number| user(generation, plan, number))
                        .collect()
                })
                .collect()
        });
        Self {
            users: users.collect(),
            families,
        }
    }

    /// Somebody who has used nothing yet.
    pub(crate) fn newcomer(door: &Door) -> User {
        door.user_with(
            "newcomer",
            &json!({"iat": 1_500_000_000, "exp": 4_000_000_000_u64}),
        )
    }

    /// The plan of each user, by id.
    pub(crate) fn plans(&self) -> std::collections::HashMap<String, &'static PlanFacts> {
        let of = |users: &Vec<Vec<User>>| -> Vec<(String, &'static PlanFacts)> {
            let with_plan = users.iter().zip(PLANS);
            with_plan
                .flat_map(|(users, plan)| users.iter().map(move |user| (user.id.to_string(), plan)))
                .collect()
        };
        self.users.iter().flat_map(of).collect()
    }

    /// Who asks at this time, by plan and number.
    fn generation(&self, elapsed: Duration) -> &[Vec<User>] {
        let generation = (elapsed.as_millis() / GENERATION.as_millis()) as usize;
        &self.users[generation.min(self.users.len() - 1)]
    }

    /// Those of them who buy credits: most have a plan that pays little.
    pub(crate) fn buyers(&self, elapsed: Duration) -> Vec<User> {
        let mut buyers = Vec::new();
        for (users, plan) in self.generation(elapsed).iter().zip(PLANS) {
            match plan.name {
                "credits" => buyers.extend_from_slice(users),
                "dollars" | "mixed" => buyers.push(users[0].clone()),
                _ => {}
            }
        }
        buyers
    }

    /// Everybody who ever asks.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = &User> {
        self.users.iter().flatten().flatten()
    }

    fn somebody(&self, elapsed: Duration, dice: &mut Dice) -> User {
        let users = self.generation(elapsed);
        let plan = &users[dice.below(users.len() as u64) as usize];
        plan[dice.below(plan.len() as u64) as usize].clone()
    }
}

/// Calls again and again until it is aborted.
pub(crate) async fn keeps_calling(world: Arc<World>, crowd: Arc<Crowd>, mut dice: Dice) {
    loop {
        // Thrown before anything is waited for: what comes next must not hang on what was answered.
        let mut own = dice.another();
        let user = crowd.somebody(world.elapsed(), &mut own);
        let front = world.front(own.below(u64::MAX));
        let user = User { front, ..user };
        match own.below(20) {
            0 => stranger(&world, &user, &mut own).await,
            1 => drop(
                user.front
                    .try_send(Call::get("/api/me").bearer(&user.token))
                    .await,
            ),
            2 => nonsense(&world, &user, &mut own).await,
            3..7 => persists(&world, &user, &crowd.families, &mut own).await,
            _ => chats(&user, &crowd.families, &mut own).await,
        }
        sleep(Duration::from_millis(1 + own.below(40))).await;
    }
}

/// A token that is none.
async fn stranger(world: &World, user: &User, dice: &mut Dice) {
    let forged = tokens::message(
        r#"{"alg":"none","typ":"JWT"}"#,
        &world.door.claims("mallory").to_string(),
    );
    let mut flipped = user.token.clone();
    let last = if flipped.pop() == Some('A') { 'E' } else { 'A' };
    // The fifth character from the end: the very last one carries bits that decode to nothing.
    flipped.truncate(flipped.len() - 4);
    flipped.extend([last, 'Q', '0', '0', '0']);
    let tokens = [
        "",
        "not.a.token",
        world.door.service_key(),
        forged.as_str(),
        flipped.as_str(),
    ];
    let token = tokens[dice.below(tokens.len() as u64) as usize];
    let call = Call::post("/v1/chat/completions", &chat("stranger")).bearer(token);
    world.expect_refusal(&user.front.try_send(call).await, 401);
}

/// A request that cannot be meant.
async fn nonsense(world: &World, user: &User, dice: &mut Dice) {
    let bad = [
        json!({"service_tier": "flex"}),
        json!({"max_tokens": 0}),
        json!({"n": 129}),
        json!({"store": true}),
        json!({"max_tokens": -5}),
        json!({"messages": []}),
    ];
    let fields = &bad[dice.below(bad.len() as u64) as usize];
    let answer = user.try_ask(and(chat("nonsense"), fields)).await;
    world.expect_refusal(&answer, 400);
}

async fn chats(user: &User, families: &[&'static Family], dice: &mut Dice) {
    let call = ask(families, "", dice).call(user, 0);
    sends(user, call, dice).await;
}

/// Sends a call and stays, or leaves at some time. What was answered, or what of a good answer was read.
async fn sends(user: &User, call: Call, dice: &mut Dice) -> Option<Answer> {
    match dice.below(10) {
        0 => {
            let begun = user.front.begin(call).await.ok()?;
            sleep(Duration::from_micros(dice.below(40_000))).await;
            begun.hang_up();
            None
        }
        1 | 2 => {
            let mut open = user.front.open(call).await.ok()?;
            open.take(dice.below(7) as usize).await;
            let so_far = open.so_far().clone();
            open.hang_up();
            (so_far.status == 200).then_some(so_far)
        }
        _ => user.front.try_send(call).await.ok(),
    }
}

/// What a caller has of one answer, whoever told it.
#[derive(Default)]
struct Heard {
    id: Option<String>,
    events: Vec<String>,
}

impl Heard {
    /// Takes the events of an answer, which begin after `after` of them. The same event is the same whoever tells it.
    fn take(&mut self, world: &World, answer: &Answer, after: usize) {
        if answer.status != 200 || answer.header("content-type") != "text/event-stream" {
            return;
        }
        let id = answer.header("x-request-id");
        if self.id.as_deref() != Some(id) {
            if after > 0 {
                world.complain(format!("asked for {:?}, and told {id}", self.id));
            }
            (self.id, self.events) = (Some(id.to_owned()), Vec::new());
        }
        let text = answer.text();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let events = whole
            .split("\n\n")
            .filter_map(|block| block.split_once("data: "));
        for (place, (_, event)) in (after..).zip(events) {
            match self.events.get(place) {
                Some(known) if known != event => world.complain(format!(
                    "event {} of {id} is {known} and {event}",
                    place + 1
                )),
                Some(_) => {}
                None => self.events.push(event.to_owned()),
            }
        }
    }

    /// The call for the rest of it, once its head has come.
    fn rest(&self, user: &User) -> Option<Call> {
        let call = Call::get(&format!("/api/answers/{}", self.id.as_ref()?)).bearer(&user.token);
        Some(call.header("last-event-id", &self.events.len().to_string()))
    }
}

/// Sends one request again and again with its `Idempotency-Key`, to any process and with its members in any order, or asks
/// for the rest of its answer, until there is an answer that is final.
async fn persists(world: &World, user: &User, families: &[&'static Family], dice: &mut Dice) {
    let key = format!("{:016x}", dice.below(u64::MAX));
    let ask = ask(families, &format!("{KEY_IN_PROMPT}{key};"), dice);
    let mut heard = Heard::default();
    for _ in 0..2 + dice.below(6) {
        // Thrown before anything is waited for, as above.
        let mut own = dice.another();
        let front = world.front(own.below(u64::MAX));
        let user = User {
            front,
            ..user.clone()
        };
        let again = ask
            .call(&user, own.below(5) as usize)
            .header("idempotency-key", &key);
        let rest = heard.rest(&user).filter(|_| own.below(2) == 0);
        let after = rest.as_ref().map_or(0, |_| heard.events.len());
        let answer = sends(&user, rest.unwrap_or(again), &mut own).await;
        if let Some(answer) = answer {
            heard.take(world, &answer, after);
            if is_final(world, &answer) {
                return;
            }
        }
        sleep(Duration::from_millis(own.below(300))).await;
    }
}

/// Where the key stands in a prompt, so that the upstream's log has it.
const KEY_IN_PROMPT: &str = " key-";

/// The key of a request that [`persists`] sent.
pub(crate) fn key_of(seen: &Seen) -> Option<String> {
    let prompt = said(seen)?;
    let (_, rest) = prompt.rsplit_once(KEY_IN_PROMPT)?;
    Some(rest.split_once(';')?.0.to_owned())
}

/// What a request says, whatever its endpoint.
fn said(seen: &Seen) -> Option<String> {
    said_in(&seen.body).or_else(|| pictures::sent(seen, "prompt"))
}

/// The same of a body of JSON.
pub(crate) fn said_in(body: &Value) -> Option<String> {
    let places = [
        &body["messages"][0]["content"],
        &body["input"],
        &body["prompt"],
    ];
    let said = places.into_iter().find_map(Value::as_str);
    said.map(str::to_owned)
}

/// Whether sending again would change nothing.
fn is_final(world: &World, answer: &Answer) -> bool {
    match answer.code().as_str() {
        "idempotency_key_reused" => {
            world.complain(format!("it was the same request: {answer:?}"));
            true
        }
        "answer_gone" => {
            let request = &answer.json()["error"]["request"];
            let is_open = request["state"].is_null();
            if is_open == answer.header("retry-after").is_empty()
                || is_open != request["cost_usd"].is_null()
            {
                world.complain(format!(
                    "neither open nor ended: {}, {}",
                    answer.what,
                    answer.text()
                ));
            }
            !is_open
        }
        // A stream that broke off has no end of its own.
        _ => answer.status == 200 && answer.whole || answer.status == 402,
    }
}

/// A request of any endpoint, with what the upstream is to do in its prompt, and `last` behind it.
fn ask(families: &[&'static Family], last: &str, dice: &mut Dice) -> Ask {
    let deeds = [
        "words", "words", "words", "words", "words", "words", "cap", "cap", "slow", "long",
        "garbage", "mute", "over", "model", "reset", "close", "stall", "dumb", "dead", "error",
    ];
    let deed = deeds[dice.below(deeds.len() as u64) as usize];
    let prompt = format!(
        "do-{deed}-{}; {}{last}",
        dice.below(60),
        "more ".repeat(dice.below(12) as usize)
    );
    if dice.below(5) < 2 {
        return Ask::other(&prompt, dice);
    }
    let mut body = chat(&prompt);
    if dice.below(5) < 3 {
        body = and(body, &json!({"stream": true}));
    }
    let family = families[dice.below(families.len() as u64) as usize];
    match dice.below(24) {
        0 | 1 => body = and(body, &json!({"model": "gpt-4o"})),
        2..5 => {}
        5..8 => body = and(body, &json!({"model": "either"})),
        8..16 => body = and(body, &json!({"model": family.talks()})),
        _ => body = and(body, &json!({"model": family.thinks()})),
    }
    Ask::chat(match dice.below(4) {
        0 => body,
        1 => and(body, &json!({"max_tokens": 1 + dice.below(30), "n": 2})),
        _ => and(body, &json!({"max_completion_tokens": 1 + dice.below(250)})),
    })
}

/// What the upstream answers.
pub(crate) fn answer(seen: &Seen, mood: Mood) -> Reply {
    let (deed, number) = deed(seen).unwrap_or_else(|| ("words".to_owned(), 5));
    if let Some(reply) = endpoints::answer(seen, (&deed, number), mood) {
        return reply;
    }
    if let Some(family) = zoo::of(seen) {
        let mut scene = scene(&deed, number, mood);
        scene.trouble = scene.trouble.filter(|trouble| trouble.is_of(family));
        return family.reply(&scene, seen);
    }
    let words = Talk::words(number % 20).every(Duration::from_millis(number % 9));
    let broken = |step: Step| {
        if seen.is_stream() {
            words.clone().cut(number % 6, step).reply(seen)
        } else {
            Reply::headless(step)
        }
    };
    // The other has troubles of its own: it is asked when the first has some.
    if seen.body["model"] == OTHER {
        return match number % 7 {
            0 => Reply::error(503, "their_code", "what they say"),
            1 => Reply::error(400, "their_code", "what they say"),
            2 => broken(Step::Reset),
            3 => broken(Step::Stall),
            _ => words.reply(seen),
        };
    }
    match mood {
        Mood::Scripted => {}
        Mood::Resets => return broken(Step::Reset),
        Mood::Stalls => return broken(Step::Stall),
        Mood::FalseUsage => {
            return words
                .usage(GARBAGE[number as usize % GARBAGE.len()])
                .reply(seen);
        }
        Mood::Errors => {
            return Reply::status(500 + (number % 4) as u16, "text/html", "<h1>no</h1>");
        }
    }
    match deed.as_str() {
        "cap" => Talk::to_the_cap().reply(seen),
        "slow" => words.reply(seen).after(Duration::from_millis(number * 10)),
        "long" => Talk::words(30)
            .every(Duration::from_millis(number))
            .reply(seen),
        "garbage" => words
            .usage(GARBAGE[number as usize % GARBAGE.len()])
            .reply(seen),
        "mute" => words.without_usage().reply(seen),
        // Rarely: a limit that was overrun lets nobody in for the rest of its window.
        "over" if number < 12 => {
            Talk::words(seen.cap().unwrap_or(0) + seen.prompt_tokens() * 4 + 300)
                .beyond_the_cap()
                .reply(seen)
        }
        "model" => words.model("mystery-9000").reply(seen),
        "reset" => broken(Step::Reset),
        "close" => broken(Step::Close),
        "stall" => broken(Step::Stall),
        "dumb" => Reply::headless(Step::Stall),
        "dead" => Reply::headless(Step::Reset),
        "error" => {
            let status = [400, 401, 404, 422, 429, 500, 502, 503][number as usize % 8];
            Reply::error(status, "their_code", "what they say")
        }
        _ => words.reply(seen),
    }
}

/// The same of a family of the zoo.
pub(crate) fn scene(deed: &str, number: u64, mood: Mood) -> Scene {
    let words = Scene {
        thinks: if number.is_multiple_of(3) {
            number % 7
        } else {
            0
        },
        cached: number.is_multiple_of(4),
        calls_a_tool: number.is_multiple_of(5),
        pause: Duration::from_millis(number % 9),
        ..Scene::words(number % 20)
    };
    let of = |habits: &[Habit]| habits[number as usize % habits.len()];
    let cut = |step: Step| Scene {
        cut: Some((number % 6, step)),
        ..words.clone()
    };
    match (mood, deed) {
        (Mood::Resets, _) | (_, "reset" | "dead") => cut(Step::Reset),
        (Mood::Stalls, _) | (_, "stall" | "dumb") => cut(Step::Stall),
        (Mood::FalseUsage, _) | (_, "garbage" | "over") => Scene {
            habit: of(&[Habit::PromptOfNone, Habit::EndsEarly, Habit::UsageAfterDone]),
            ..words
        },
        (Mood::Errors, _) => Scene {
            trouble: Some(Trouble::Failure),
            ..words
        },
        (_, "error") => Scene {
            trouble: Some(Trouble::ALL[number as usize % Trouble::ALL.len()]),
            ..words
        },
        (_, "close") => cut(Step::Close),
        (_, "cap") => Scene::words(100_000),
        (_, "slow") => Scene {
            pause: Duration::from_millis(number),
            ..words
        },
        (_, "long") => Scene {
            pause: Duration::from_millis(number),
            ..Scene::words(30)
        },
        (_, "mute") => Scene {
            mute: true,
            ..words
        },
        (_, "model") => Scene {
            habit: of(&[
                Habit::NamesAnother,
                Habit::WholeForStream,
                Habit::DataComments,
                Habit::DoubledMembers,
            ]),
            ..words
        },
        _ => words,
    }
}

/// The `do-DEED-NUMBER;` of a prompt.
fn deed(seen: &Seen) -> Option<(String, u64)> {
    let prompt = said(seen)?;
    let (_, rest) = prompt.split_once("do-")?;
    let (deed, number) = rest.split_once(';')?.0.split_once('-')?;
    Some((deed.to_owned(), number.parse().ok()?))
}

/// A refusal that was expected may have been prevented by a fault: by a refusal that is documented for it (too many at once,
/// or something is out of use), or by the end of the process. Nothing else may have come of it.
pub(crate) fn is_as_expected(answer: &std::io::Result<Answer>, status: u16) -> bool {
    let Ok(answer) = answer else { return true };
    let is_for_now =
        |refusal: &&(u16, &str, &str)| matches!(refusal.0, 429 | 503) && refusal.0 == answer.status;
    answer.status == status
        || REFUSALS
            .iter()
            .filter(is_for_now)
            .any(|(_, _, code)| answer.code() == *code)
}
