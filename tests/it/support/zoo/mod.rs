//! The zoo: stand-ins for the providers that an operator may put behind Tollgate.
//!
//! A [`Family`] is a row of facts about one of them: how its books are kept, which names it has for a cap, for cached and
//! reasoning tokens, how its streams end, what its errors look like. One fake upstream plays them all: the model's name
//! says which (`groq-talks`). What it bills is entered when a request is accepted and depends on nothing that it says
//! afterwards: [`Books`](super::reply::Books). The facts are from the providers' documents and from reports of what they
//! do; nothing here was tried against a provider itself (`docs/providers.md` says so).

mod answers;
pub(crate) mod claude;
mod families;
pub(crate) mod troubles;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use families::FAMILIES;
pub(crate) use troubles::Trouble;

use super::caller::serial_in;
use super::reply::{Bill, Books, Reply, Step, honest};
use super::settings::Settings;
use super::upstream::{Seen, Upstream};

/// Without a cap that it knows, a provider goes on for so long.
const UNCAPPED: u64 = 32_000;

/// Facts about one provider.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// What its `[[upstreams]]` says beyond name, address, key and models.
    pub(crate) settings: &'static str,
    pub(crate) prompt: Prompt,
    /// Its names for a cap; others are ignored.
    pub(crate) caps: &'static [&'static str],
    /// Fields that it refuses, and by which status.
    pub(crate) refuses: &'static [&'static str],
    pub(crate) refuses_by: u16,
    /// What it calls the model `{}`.
    pub(crate) calls_itself: &'static str,
    pub(crate) cached: Cached,
    pub(crate) reasoning: Reasoning,
    /// Members of a message in which its reasoning is shown: none where it is hidden.
    pub(crate) shows: &'static [&'static str],
    /// Where a stream tells its usage.
    pub(crate) usage: Place,
    /// It ends a stream with `[DONE]`.
    pub(crate) done: bool,
    /// What it writes between events, and before a whole answer.
    pub(crate) between: &'static str,
    pub(crate) before_whole: &'static str,
    /// The `finish_reason` of a choice that goes on, as JSON.
    pub(crate) unfinished: &'static str,
    /// The work on a stream goes on when nobody listens.
    pub(crate) works_on: bool,
    pub(crate) shape: Shape,
    pub(crate) waits: Waits,
}

/// How the tokens of a prompt are counted: a stand-in for the provider's template and tokenizer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prompt {
    /// OpenAI's, whose tokenizer is known: words, and its overhead of a message.
    Words,
    /// So many tokens of template, and one for three bytes.
    Bytes(u64),
}

/// The name that cached tokens have in its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// There is no cheaper price, or nothing is said of it.
    Never,
    Nested,
    Top,
    HitAndMiss,
    CacheRead,
}

/// Where reasoning tokens are in its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reasoning {
    /// In `completion_tokens`, and named.
    Inside,
    /// In `completion_tokens`, and not named.
    Unnamed,
    /// Beside `completion_tokens`, named, and in the total.
    Beside,
    /// In the total alone.
    InTotal,
}

/// Where a stream tells its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a chunk of its own, for those who ask.
    Asked,
    /// On a chunk of its own, for everybody.
    Own,
    /// On the chunk that finishes.
    Last,
    /// On every chunk, what was used up to it.
    Every,
    /// In the choice of the chunk that finishes.
    Choice,
    /// In `x_groq` of the chunk that finishes.
    XGroq,
    Never,
}

/// What its errors look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Azure,
    /// An array of one.
    Google,
    /// `{"code","error"}`.
    Xai,
    Mistral,
    Vllm,
    /// `{"error":{"code":400,…}}`.
    Numbered,
    Anthropic,
    /// `{"error":"…"}`.
    Text,
}

/// How a busy provider says when to come back, and what the caller is to be told, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waits {
    Header(&'static str, &'static str),
    /// `RetryInfo` in the body.
    Body(&'static str, &'static str),
}

/// What is to happen to a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scene {
    /// Words that are shown, a token each.
    pub(crate) words: u64,
    /// Tokens of reasoning before them.
    pub(crate) thinks: u64,
    /// Most of the prompt is in the provider's cache.
    pub(crate) cached: bool,
    /// The words are the arguments of a function call.
    pub(crate) calls_a_tool: bool,
    /// Before each word, and for as long before a whole answer.
    pub(crate) pause: Duration,
    /// After so many pieces of a stream this happens instead of the rest.
    pub(crate) cut: Option<(u64, Step)>,
    pub(crate) trouble: Option<Trouble>,
    /// Usage is never told.
    pub(crate) mute: bool,
    pub(crate) habit: Habit,
}

/// What a gateway in between makes of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Habit {
    #[default]
    None,
    /// `data: : keepalive` between the events.
    DataComments,
    /// The usage comes after `[DONE]`.
    UsageAfterDone,
    /// `"error": ""` on each chunk.
    EmptyErrors,
    /// `"logprob": -Infinity` on one chunk.
    Infinity,
    /// The same member twice on each chunk.
    DoubledMembers,
    /// A whole answer to `stream: true`.
    WholeForStream,
    /// Another name than any that was ordered.
    NamesAnother,
    /// A prompt of none in the usage.
    PromptOfNone,
    /// `finish_reason: "stop"`, and the stream ends, without `[DONE]` and without usage.
    EndsEarly,
}

impl Habit {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::DataComments,
        Self::UsageAfterDone,
        Self::EmptyErrors,
        Self::Infinity,
        Self::DoubledMembers,
        Self::WholeForStream,
        Self::NamesAnother,
        Self::PromptOfNone,
        Self::EndsEarly,
    ];
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    /// Output that is shown, of all choices.
    pub(crate) shown: u64,
    pub(crate) reasoning: u64,
}

impl Scene {
    pub(crate) fn words(words: u64) -> Self {
        Self {
            words,
            ..Self::default()
        }
    }

    pub(crate) fn trouble(trouble: Trouble) -> Self {
        Self {
            trouble: Some(trouble),
            ..Self::words(5)
        }
    }
}

impl Family {
    /// The model that answers at once, and the one that thinks first.
    pub(crate) fn talks(&self) -> String {
        format!("{}-talks", self.name)
    }

    pub(crate) fn thinks(&self) -> String {
        format!("{}-thinks", self.name)
    }

    /// How an operator configures it: the upstream.
    pub(crate) fn upstream(&self) -> String {
        let Self { name, settings, .. } = self;
        format!(
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"{{upstream}}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
             models = [\"{name}-*\"]\n{settings}\n"
        )
    }

    /// The prices of its two models: a dollar a million tokens of the prompt, a tenth of it cached, four of the output.
    pub(crate) fn prices(&self) -> String {
        let tokenizer = if matches!(self.prompt, Prompt::Words) {
            "tokenizer = \"o200k\"\n"
        } else {
            ""
        };
        let price = format!("input = \"1\"\ncached_input = \"0.1\"\noutput = \"4\"\n{tokenizer}");
        let (talks, thinks, hides) = (self.talks(), self.thinks(), self.shows.is_empty());
        format!("[prices.\"{talks}\"]\n{price}[prices.\"{thinks}\"]\n{price}reasoning = {hides}\n")
    }

    /// The cap that it understands.
    pub(crate) fn cap(&self, seen: &Seen) -> u64 {
        self.caps
            .iter()
            .find_map(|name| seen.body[*name].as_u64())
            .unwrap_or(UNCAPPED)
    }

    /// What a request comes to, whoever listens.
    pub(crate) fn account(&self, scene: &Scene, seen: &Seen) -> Account {
        let cap = self.cap(seen);
        // A model that is not said to think does not.
        let thinks = seen.body["model"]
            .as_str()
            .is_some_and(|model| model.ends_with("-thinks"));
        let reasoning = if thinks { scene.thinks.min(cap) } else { 0 };
        let words = if scene.calls_a_tool {
            scene.words + answers::CALL_TOKENS
        } else {
            scene.words
        };
        let shown = words.min(cap - reasoning);
        let prompt = self.prompt_tokens(seen);
        let cached = if scene.cached && self.cached != Cached::Never {
            prompt * 9 / 10
        } else {
            0
        };
        Account {
            prompt,
            cached,
            shown: shown * seen.choices(),
            reasoning: reasoning * seen.choices(),
        }
    }

    fn prompt_tokens(&self, seen: &Seen) -> u64 {
        let written = |name: &str| match &seen.body[name] {
            serde_json::Value::Null => 0,
            value => value.to_string().len() as u64,
        };
        let tools = written("tools") + written("response_format");
        match self.prompt {
            Prompt::Words => seen.prompt_tokens() + tools / 6,
            Prompt::Bytes(template) => template + (written("messages") + tools) / 3,
        }
    }

    /// The answer to a request, and its books.
    pub(crate) fn reply(&self, scene: &Scene, seen: &Seen) -> Reply {
        if let Some(field) = self
            .refuses
            .iter()
            .find(|field| !seen.body[**field].is_null())
        {
            let message = format!("Unsupported parameter: '{field}'.");
            return troubles::refusal(self, self.refuses_by, "unsupported_parameter", &message)
                .booked(Books::free());
        }
        let account = self.account(scene, seen);
        if let Some(trouble) = scene.trouble {
            return trouble
                .reply(self, &account, seen)
                .after(scene.pause * scene.words as u32);
        }
        let streams = seen.is_stream() && scene.habit != Habit::WholeForStream;
        let reply = if streams {
            answers::stream(self, scene, seen, &account)
        } else {
            answers::whole(self, scene, seen, &account).after(scene.pause * scene.words as u32)
        };
        // Nobody stops a whole answer half-way.
        reply.booked(self.books(&account, !streams || self.works_on))
    }

    fn books(&self, account: &Account, works_on: bool) -> Books {
        let hidden = if self.shows.is_empty() {
            account.reasoning
        } else {
            0
        };
        Books {
            whole: account.bill(),
            hidden,
            works_on,
        }
    }
}

impl Account {
    /// By the families' own rule: all that was generated is output.
    pub(crate) fn bill(&self) -> Bill {
        Bill {
            prompt: self.prompt,
            cached: self.cached,
            completion: self.shown + self.reasoning,
            ..Bill::default()
        }
    }
}

/// The family that a request is for.
pub(crate) fn of(seen: &Seen) -> Option<&'static Family> {
    let model = seen.body["model"].as_str()?;
    let name = model
        .strip_suffix("-talks")
        .or_else(|| model.strip_suffix("-thinks"))?;
    FAMILIES.iter().find(|family| family.name == name)
}

/// Settings with these families: their upstreams beside the ordinary one, their prices, and a plan that has their models.
pub(crate) fn with(settings: Settings, families: &[&Family]) -> Settings {
    let models: Vec<String> = families
        .iter()
        .flat_map(|family| [family.talks(), family.thinks()])
        .map(|name| format!("{name:?}"))
        .collect();
    let mut toml: String = families.iter().map(|family| family.upstream()).collect();
    toml.extend(families.iter().map(|family| family.prices()));
    settings
        .with(&toml)
        .with(&format!("plans.free.models = [{}]", models.join(", ")))
}

/// Which scene each request gets, by the serial in its prompt; five words where nothing is said.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Mutex<HashMap<u64, Scene>>>);

impl Stage {
    /// The upstream plays every family from here on.
    pub(crate) fn of(upstream: &Upstream) -> Self {
        let stage = Self::default();
        let scenes = stage.0.clone();
        upstream.always(move |seen| {
            let scene = seen
                .serial()
                .and_then(|serial| scenes.lock().unwrap().get(&serial).cloned());
            let scene = scene.unwrap_or_else(|| Scene::words(5));
            if claude::is_asked(seen) {
                return claude::reply(&scene, seen);
            }
            match of(seen) {
                Some(family) => family.reply(&scene, seen),
                None => honest(seen),
            }
        });
        stage
    }

    /// This request gets this scene.
    pub(crate) fn plays(&self, body: &serde_json::Value, scene: Scene) {
        let serial = serial_in(body.to_string().as_bytes()).expect("a body of `chat`");
        self.0.lock().unwrap().insert(serial, scene);
    }
}
