//! A scripted phone: it sleeps, loses its socket at any byte, comes back from another address, sends again with the same key,
//! dies between the head and the first event, and asks from two devices at once. Each life is made from a seed.
//!
//! In the end it has every byte of its answer, or was told that it is gone; the provider's books and the ledger agree on one
//! charge for each key (the oracle sees to that); and nothing is kept beyond its time. `just phone` runs ten thousand lives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::answers::{get, keyed};
use crate::metrics::samples;
use crate::support::caller::{Call, User, and, chat, chat_stream, serial_in};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::reply::{Reply, Talk};
use crate::support::settings::Settings;

/// How many lives are lived in CI; `TOLLGATE_PHONE_LIVES` says otherwise.
const LIVES: u64 = 300;
/// So many at once.
const AT_ONCE: u64 = 16;
const USERS: u64 = 50;
/// How long an answer is kept: longer than most lives.
const KEEP: Duration = Duration::from_secs(5);

/// A generator of numbers that a seed decides (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// What a phone has of its answer.
#[derive(Default)]
struct Have {
    id: Option<String>,
    events: Vec<String>,
    whole: Option<String>,
}

impl Have {
    fn is_complete(&self) -> bool {
        self.whole.is_some() || self.events.last().is_some_and(|last| last == "[DONE]")
    }

    /// Takes the whole events of what was read, which begin after `after` of them.
    fn take(&mut self, text: &str, after: usize, numbered: bool) {
        let cut = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let blocks = cut.split("\n\n").filter(|block| block.contains("data: "));
        for (place, block) in blocks.enumerate() {
            let place = after + place;
            let (number, event) = block.split_once("data: ").unwrap();
            if numbered {
                assert_eq!(number, format!("id: {}\n", place + 1));
            } else {
                assert_eq!(number, "", "nobody asked for numbers");
            }
            match self.events.get(place) {
                Some(known) => assert_eq!(known, event, "the same event as before"),
                None => self.events.push(event.to_owned()),
            }
        }
    }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Gone,
}

/// Asks once, and reads as far as fate lets it.
async fn attempt(
    user: &User,
    call: Call,
    dice: &mut Dice,
    have: &mut Have,
    after: usize,
) -> Option<Fate> {
    let is_get = call.is_get();
    let Ok(begun) = user.front.begin(call).await else {
        return None;
    };
    if dice.one_in(6) {
        sleep(Duration::from_millis(dice.below(15))).await;
        begun.hang_up();
        return None;
    }
    let Ok(mut open) = begun.head().await else {
        return None;
    };
    match open.so_far().status {
        200 => {}
        409 | 410 if open.so_far().header("retry-after").is_empty() => return Some(Fate::Gone),
        _ => return None,
    }
    if dice.one_in(6) {
        return None;
    }
    let id = open.so_far().header("x-request-id").to_owned();
    if let Some(known) = &have.id {
        assert_eq!(*known, id, "one request for one key");
    }
    have.id = Some(id);
    // Loses its socket after so many bytes, or never.
    let bytes = if dice.one_in(2) {
        u64::MAX
    } else {
        dice.below(4000)
    };
    let is_stream = open.so_far().header("content-type") == "text/event-stream";
    while (open.so_far().body.len() as u64) < bytes {
        if !open.read_on().await {
            break;
        }
    }
    let heard = open.so_far().clone();
    let text = heard.text();
    if is_stream {
        have.take(&text, after, is_get);
    } else if heard.whole {
        have.whole = Some(text);
    }
    None
}

/// One life: one request, sent and asked for until all of it is there.
async fn live(user: User, seed: u64, words: u64) -> Fate {
    let mut dice = Dice::new(seed);
    let fields = json!({"max_tokens": words});
    let is_stream = dice.below(3) > 0;
    let body = and(
        if is_stream {
            chat_stream("a")
        } else {
            chat("a")
        },
        &fields,
    );
    let key = format!("life-{seed}");
    let (mut have, begun) = (Have::default(), Instant::now());
    let other = dice.one_in(4).then(|| {
        let (user, call) = (user.clone(), keyed(&user, &key, &body));
        tokio::spawn(async move { user.front.try_send(call).await })
    });
    let fate = loop {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "seed {seed} never ends"
        );
        let known = have.events.len();
        let (call, after) = match have.id.clone().filter(|_| !dice.one_in(3)) {
            Some(id) if dice.one_in(2) => (
                get(&user, &id).header("last-event-id", &known.to_string()),
                known,
            ),
            Some(id) => (
                get(&user, &id).path(&format!("/api/answers/{id}?after={known}")),
                known,
            ),
            None => (keyed(&user, &key, &body), 0),
        };
        if let Some(fate) = attempt(&user, call, &mut dice, &mut have, after).await {
            break fate;
        }
        if have.is_complete() {
            break Fate::Answered;
        }
        sleep(Duration::from_millis(dice.below(25))).await;
    };
    if fate == Fate::Answered {
        let said = have.whole.clone().unwrap_or_else(|| have.events.concat());
        assert_eq!(
            said.matches("alpha").count() as u64,
            words,
            "seed {seed}: {said}"
        );
    }
    if let Some(other) = other
        && let Ok(heard) = other.await.unwrap()
        && heard.status == 200
        && have.id.as_deref() == Some(heard.header("x-request-id"))
        && fate == Fate::Answered
    {
        assert_eq!(
            heard.said().matches("alpha").count() as u64,
            words,
            "seed {seed}"
        );
    }
    fate
}

/// How long its answer is, by the seed of a life.
const fn words_of(seed: u64) -> u64 {
    1 + seed % 40
}

/// An upstream that fails some requests the first time, and takes its time.
fn moody(served: &Arc<Mutex<HashMap<u64, u64>>>, seen: &crate::support::upstream::Seen) -> Reply {
    let serial = serial_in(&seen.request.body).unwrap_or_default();
    let times = {
        let mut served = served.lock().unwrap();
        let times = served.entry(serial).or_default();
        *times += 1;
        *times
    };
    if serial.is_multiple_of(9) && times == 1 {
        return Reply::status(500, "text/html", "<h1>no</h1>");
    }
    let words = seen.cap().unwrap_or(1);
    Talk::words(words)
        .every(Duration::from_millis(serial % 4))
        .reply(seen)
        .after(Duration::from_millis(serial % 20))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_has_all_of_its_answer_in_the_end_and_pays_for_it_once() {
    let lives = std::env::var("TOLLGATE_PHONE_LIVES").map_or(LIVES, |lives| lives.parse().unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new()
        .with(&format!("answers.keep = \"{}s\"", KEEP.as_secs()))
        .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings).await;
    let served = Arc::<Mutex<HashMap<u64, u64>>>::default();
    let counted = served.clone();
    door.upstream.always(move |seen| moody(&counted, seen));
    let users: Vec<User> = (0..USERS)
        .map(|number| door.user(&format!("phone-{number}")))
        .collect();
    let next = Arc::new(Mutex::new(0..lives));
    let phones: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (users, next) = (users.clone(), next.clone());
            tokio::spawn(async move {
                let mut gone = 0_u64;
                loop {
                    let Some(seed) = next.lock().unwrap().next() else {
                        return gone;
                    };
                    let user = users[(seed % USERS) as usize].clone();
                    gone += u64::from(live(user, seed, words_of(seed)).await == Fate::Gone);
                }
            })
        })
        .collect();
    let mut gone = 0;
    for phone in phones {
        gone += phone.await.unwrap();
    }
    // A life may be slower than answers are kept: the machine may be busy.
    assert!(gone * 10 <= lives, "{gone} of {lives} answers were gone");
    let begun = Instant::now();
    loop {
        let page = Call::get("/metrics").host("127.0.0.1:9090");
        let page = samples(&door.office(address).send(page).await.expect(200).text());
        let kept = ["tollgate_answers", "tollgate_answers_bytes"].map(|name| page[name]);
        if kept == [0.0, 0.0] {
            break;
        }
        assert!(
            begun.elapsed() < KEEP * 4,
            "{kept:?} are kept beyond their time"
        );
        sleep(Duration::from_millis(200)).await;
    }
    let rows = door.quiet_rows().await;
    let charged = rows.iter().filter(|row| row.is_charged()).count() as u64;
    assert_eq!(charged, lives, "one charge for each key");
    let once = |times: &u64| *times <= 2;
    assert!(
        served.lock().unwrap().values().all(once),
        "sent twice only where it failed"
    );
    door.close().await;
}
