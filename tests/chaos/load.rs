//! Callers of every kind, and an upstream that treats each request as that request says.
//!
//! What a caller does next follows from its dice alone, and how the upstream answers stands in the prompt: so a seed
//! repeats both.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::script::Mood;
use crate::support::caller::{Answer, Call, User, and, chat};
use crate::support::door::Door;
use crate::support::load::Dice;
use crate::support::oracle::REFUSALS;
use crate::support::reply::{GARBAGE, Reply, Step, Talk};
use crate::support::tokens;
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
    PlanFacts { name: "requests", concurrent: 4, limits: &[("minute", "requests", 12), ("day", "requests", 20)] },
    PlanFacts { name: "tokens", concurrent: 6, limits: &[("hour", "tokens", 7_000), ("lifetime", "tokens", 12_000)] },
    PlanFacts { name: "dollars", concurrent: 5, limits: &[("day", "cost_usd", 6_000), ("month", "cost_usd", 10_000)] },
    PlanFacts { name: "narrow", concurrent: 1, limits: &[("lifetime", "requests", 60)] },
    PlanFacts {
        name: "mixed",
        concurrent: 3,
        limits: &[("minute", "tokens", 6_000), ("day", "requests", 30), ("lifetime", "cost_usd", 9_000)],
    },
    PlanFacts { name: "free", concurrent: 8, limits: &[("month", "cost_usd", 100_000_000)] },
];

/// What the whole app may spend in a day, in micro-dollars.
pub(crate) const CEILING: i64 = 600_000;

/// New users come so often, so that there are always some whose limits are not used up.
pub(crate) const GENERATION: Duration = Duration::from_secs(4);
const USERS_OF_A_PLAN: u64 = 2;
pub(crate) const CALLERS: u64 = 14;

/// Every model that is asked for, as TOML.
fn models(families: &[&Family]) -> String {
    let of_families = families.iter().flat_map(|family| [family.talks(), family.thinks()]);
    let models = ["gpt-4o-mini", "gpt-4o"].map(str::to_owned).into_iter().chain(of_families);
    models.map(|model| format!("{model:?}")).collect::<Vec<_>>().join(", ")
}

/// The upstreams as settings: one that may say anything, and the families.
pub(crate) fn upstreams(families: &[&Family]) -> String {
    let plain = "[[upstreams]]\nname = \"plain\"\nbase_url = \"{upstream}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
                 models = [\"gpt-*\"]\ndialect = \"openai\"\n";
    let others = families.iter().map(|family| family.upstream());
    let prices = families.iter().map(|family| family.prices());
    std::iter::once(plain.to_owned()).chain(others).chain(prices).collect()
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
                    format!("{{ per = \"{per}\", cost_usd = \"{}.{:06}\" }}", amount / 1_000_000, amount % 1_000_000)
                }
                unit => format!("{{ per = \"{per}\", {unit} = {amount} }}"),
            })
            .collect();
        let _ = writeln!(
            text,
            "[plans.{}]\nmodels = [{models}]\nmax_output_tokens = 200\nmax_choices = 2\n\
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
            let claims = and(always.clone(), &json!({"app_metadata": {"plan": plan.name}}));
            door.user_with(&format!("{}-{generation}-{number}", plan.name), &claims)
        };
        let users = (0..generations).map(|generation| {
            PLANS
                .iter()
                .map(|plan| (0..USERS_OF_A_PLAN).map(|number| user(generation, plan, number)).collect())
                .collect()
        });
        Self { users: users.collect(), families }
    }

    /// Somebody who has used nothing yet.
    pub(crate) fn newcomer(door: &Door) -> User {
        door.user_with("newcomer", &json!({"iat": 1_500_000_000, "exp": 4_000_000_000_u64}))
    }

    /// The plan of each user, by id.
    pub(crate) fn plans(&self) -> std::collections::HashMap<String, &'static PlanFacts> {
        let of = |users: &Vec<Vec<User>>| -> Vec<(String, &'static PlanFacts)> {
            let with_plan = users.iter().zip(PLANS);
            with_plan.flat_map(|(users, plan)| users.iter().map(move |user| (user.id.to_string(), plan))).collect()
        };
        self.users.iter().flat_map(of).collect()
    }

    fn somebody(&self, elapsed: Duration, dice: &mut Dice) -> User {
        let generation = (elapsed.as_millis() / GENERATION.as_millis()) as usize;
        let users = &self.users[generation.min(self.users.len() - 1)];
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
            1 => drop(user.front.try_send(Call::get("/api/me").bearer(&user.token)).await),
            2 => nonsense(&world, &user, &mut own).await,
            _ => chats(&user, &crowd.families, &mut own).await,
        }
        sleep(Duration::from_millis(1 + own.below(40))).await;
    }
}

/// A token that is none.
async fn stranger(world: &World, user: &User, dice: &mut Dice) {
    let forged = tokens::message(r#"{"alg":"none","typ":"JWT"}"#, &world.door.claims("mallory").to_string());
    let mut flipped = user.token.clone();
    let last = if flipped.pop() == Some('A') { 'E' } else { 'A' };
    // The fifth character from the end: the very last one carries bits that decode to nothing.
    flipped.truncate(flipped.len() - 4);
    flipped.extend([last, 'Q', '0', '0', '0']);
    let tokens = ["", "not.a.token", world.door.service_key(), forged.as_str(), flipped.as_str()];
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
    let call = user.call(&body(families, dice));
    match dice.below(10) {
        0 => {
            let Ok(begun) = user.front.begin(call).await else { return };
            sleep(Duration::from_micros(dice.below(40_000))).await;
            begun.hang_up();
        }
        1 | 2 => {
            let Ok(mut open) = user.front.open(call).await else { return };
            open.take(dice.below(7) as usize).await;
            open.hang_up();
        }
        _ => drop(user.front.try_send(call).await),
    }
}

/// A chat, with what the upstream is to do in its prompt.
fn body(families: &[&'static Family], dice: &mut Dice) -> Value {
    let deeds = [
        "words", "words", "words", "words", "words", "words", "cap", "cap", "slow", "long", "garbage", "mute", "over",
        "model", "reset", "close", "stall", "dumb", "dead", "error",
    ];
    let deed = deeds[dice.below(deeds.len() as u64) as usize];
    let prompt = format!("do-{deed}-{}; {}", dice.below(60), "more ".repeat(dice.below(12) as usize));
    let mut body = chat(&prompt);
    if dice.below(5) < 3 {
        body = and(body, &json!({"stream": true}));
    }
    let family = families[dice.below(families.len() as u64) as usize];
    match dice.below(24) {
        0 | 1 => body = and(body, &json!({"model": "gpt-4o"})),
        2..8 => {}
        8..16 => body = and(body, &json!({"model": family.talks()})),
        _ => body = and(body, &json!({"model": family.thinks()})),
    }
    match dice.below(4) {
        0 => body,
        1 => and(body, &json!({"max_tokens": 1 + dice.below(30), "n": 2})),
        _ => and(body, &json!({"max_completion_tokens": 1 + dice.below(250)})),
    }
}

/// What the upstream answers.
pub(crate) fn answer(seen: &Seen, mood: Mood) -> Reply {
    let (deed, number) = deed(seen).unwrap_or_else(|| ("words".to_owned(), 5));
    if let Some(family) = zoo::of(seen) {
        let mut scene = scene(&deed, number, mood);
        scene.trouble = scene.trouble.filter(|trouble| trouble.is_of(family));
        return family.reply(&scene, seen);
    }
    let words = Talk::words(number % 20).every(Duration::from_millis(number % 9));
    let broken = |step: Step| {
        if seen.is_stream() { words.clone().cut(number % 6, step).reply(seen) } else { Reply::headless(step) }
    };
    match mood {
        Mood::Scripted => {}
        Mood::Resets => return broken(Step::Reset),
        Mood::Stalls => return broken(Step::Stall),
        Mood::FalseUsage => return words.usage(GARBAGE[number as usize % GARBAGE.len()]).reply(seen),
        Mood::Errors => return Reply::status(500 + (number % 4) as u16, "text/html", "<h1>no</h1>"),
    }
    match deed.as_str() {
        "cap" => Talk::to_the_cap().reply(seen),
        "slow" => words.reply(seen).after(Duration::from_millis(number * 10)),
        "long" => Talk::words(30).every(Duration::from_millis(number)).reply(seen),
        "garbage" => words.usage(GARBAGE[number as usize % GARBAGE.len()]).reply(seen),
        "mute" => words.without_usage().reply(seen),
        // Rarely: a limit that was overrun lets nobody in for the rest of its window.
        "over" if number < 12 => {
            Talk::words(seen.cap().unwrap_or(0) + seen.prompt_tokens() * 4 + 300).beyond_the_cap().reply(seen)
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
fn scene(deed: &str, number: u64, mood: Mood) -> Scene {
    let words = Scene {
        thinks: if number.is_multiple_of(3) { number % 7 } else { 0 },
        cached: number.is_multiple_of(4),
        calls_a_tool: number.is_multiple_of(5),
        pause: Duration::from_millis(number % 9),
        ..Scene::words(number % 20)
    };
    let of = |habits: &[Habit]| habits[number as usize % habits.len()];
    let cut = |step: Step| Scene { cut: Some((number % 6, step)), ..words.clone() };
    match (mood, deed) {
        (Mood::Resets, _) | (_, "reset" | "dead") => cut(Step::Reset),
        (Mood::Stalls, _) | (_, "stall" | "dumb") => cut(Step::Stall),
        (Mood::FalseUsage, _) | (_, "garbage" | "over") => {
            Scene { habit: of(&[Habit::PromptOfNone, Habit::EndsEarly, Habit::UsageAfterDone]), ..words }
        }
        (Mood::Errors, _) => Scene { trouble: Some(Trouble::Failure), ..words },
        (_, "error") => Scene { trouble: Some(Trouble::ALL[number as usize % Trouble::ALL.len()]), ..words },
        (_, "close") => cut(Step::Close),
        (_, "cap") => Scene::words(100_000),
        (_, "slow") => Scene { pause: Duration::from_millis(number), ..words },
        (_, "long") => Scene { pause: Duration::from_millis(number), ..Scene::words(30) },
        (_, "mute") => Scene { mute: true, ..words },
        (_, "model") => Scene {
            habit: of(&[Habit::NamesAnother, Habit::WholeForStream, Habit::DataComments, Habit::DoubledMembers]),
            ..words
        },
        _ => words,
    }
}

/// The `do-DEED-NUMBER;` of a prompt.
fn deed(seen: &Seen) -> Option<(String, u64)> {
    let prompt = seen.body["messages"][0]["content"].as_str()?;
    let (_, rest) = prompt.split_once("do-")?;
    let (deed, number) = rest.split_once(';')?.0.split_once('-')?;
    Some((deed.to_owned(), number.parse().ok()?))
}

/// A refusal that was expected may have been prevented by a fault: by a refusal that is documented for it (too many at once,
/// or something is out of use), or by the end of the process. Nothing else may have come of it.
pub(crate) fn is_as_expected(answer: &std::io::Result<Answer>, status: u16) -> bool {
    let Ok(answer) = answer else { return true };
    let is_for_now = |refusal: &&(u16, &str, &str)| matches!(refusal.0, 429 | 503) && refusal.0 == answer.status;
    answer.status == status || REFUSALS.iter().filter(is_for_now).any(|(_, _, code)| answer.code() == *code)
}
