//! Credits: somebody who sells, refunds and gives them while everything breaks, and keeps books of it; and law 9, as it is read in the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::ledger::{Row, Snapshot};
use crate::load::Crowd;
use crate::support::caller::{Call, Front, User};
use crate::support::load::Dice;
use crate::support::settings::micros;
use crate::support::tokens;
use crate::world::World;

/// What the store says with each event.
pub(crate) const AUTHORIZATION: &str = "Bearer canary-store-61d0";
/// Where it stands.
pub(crate) const AUTHORIZATION_ENV: &str = "STORE_AUTHORIZATION";

/// What is sold: a name, and what it gives. The second is over a day after it was bought.
const PRODUCTS: [(&str, i64); 2] = [("pack", 4_000), ("day", 2_000)];

/// How often an event is told until it is given up.
const TRIES: usize = 20;

/// The products as settings.
pub(crate) fn products() -> String {
    format!(
        "[products.pack]\ncredit_usd = \"0.004\"\n[products.day]\ncredit_usd = \"0.002\"\nexpires = \"1d\"\n\
         [webhooks]\nrevenuecat_authorization_env = \"{AUTHORIZATION_ENV}\"\n"
    )
}

pub(crate) const GRANTS: &str = "select id, user_id, source, granted_micros, refunded_micros, spent_micros, held_micros, \
                                 coalesce(ends_at, -1) from grants";
pub(crate) const USES: &str =
    "select request_id, grant_id, held_micros, spent_micros from grant_uses";

/// One row of `grants`, in micro-dollars.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    id: String,
    user: String,
    source: String,
    granted: i64,
    refunded: i64,
    spent: i64,
    held: i64,
    ends: i64,
}

impl Grant {
    pub(crate) fn read(row: &[String]) -> Self {
        let number = |column: usize| row[column].parse().unwrap();
        Self {
            id: row[0].clone(),
            user: row[1].clone(),
            source: row[2].clone(),
            granted: number(3),
            refunded: number(4),
            spent: number(5),
            held: number(6),
            ends: number(7),
        }
    }

    /// What may still be held of it.
    fn left(&self) -> i64 {
        (self.granted - self.spent - self.held - self.refunded).max(0)
    }
}

/// One row of `grant_uses`, in micro-dollars.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    request: String,
    grant: String,
    held: i64,
    spent: i64,
}

impl Use {
    pub(crate) fn read(row: &[String]) -> Self {
        Self {
            request: row[0].clone(),
            grant: row[1].clone(),
            held: row[2].parse().unwrap(),
            spent: row[3].parse().unwrap(),
        }
    }
}

/// Law 9 in this instant. Of a part of the ledger (what is open) only what is held is compared.
pub(crate) fn beyond_grants(seen: &Snapshot, whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    let rows: HashMap<&str, &Row> = seen.rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let grants = seen.grants.iter().map(|grant| (grant.id.as_str(), grant));
    let grants: HashMap<&str, &Grant> = grants.collect();
    let mut of_grants: HashMap<&str, [i64; 2]> = HashMap::new();
    let mut of_rows: HashMap<&str, [i64; 2]> = HashMap::new();
    for part in &seen.uses {
        let Some(grant) = grants.get(part.grant.as_str()) else {
            found.push(format!("paid by no grant: {part:?}"));
            continue;
        };
        match rows.get(part.request.as_str()) {
            Some(row) if row.user != grant.user => {
                found.push(format!("somebody else pays: {grant:?}: {row:?}"));
            }
            Some(row) if part.held != 0 && row.state != "held" => {
                found.push(format!("held for what has ended: {part:?}: {row:?}"));
            }
            Some(_) => {}
            None => found.push(format!("paid for no request: {part:?}")),
        }
        for sum in [
            of_grants.entry(&part.grant).or_default(),
            of_rows.entry(&part.request).or_default(),
        ] {
            *sum = [sum[0] + part.held, sum[1] + part.spent];
        }
    }
    for grant in &seen.grants {
        if grant.spent < 0 || grant.held < 0 || grant.spent + grant.held > grant.granted {
            found.push(format!("more than was granted: {grant:?}"));
        }
        let [held, spent] = of_grants
            .get(grant.id.as_str())
            .copied()
            .unwrap_or_default();
        if held != grant.held || (whole && spent != grant.spent) {
            found.push(format!(
                "its requests hold {held} and spent {spent}: {grant:?}"
            ));
        }
    }
    for row in &seen.rows {
        let [held, spent] = of_rows.get(row.id.as_str()).copied().unwrap_or_default();
        let is_open = row.state == "held";
        let paid = if is_open { held } else { spent };
        if paid != row.credits && (is_open || whole) {
            found.push(format!(
                "grants hold {held} and spent {spent} for it: {row:?}"
            ));
        }
    }
    found
}

/// What of each grant was taken, and refunded, when it was looked at last.
#[derive(Default)]
pub(crate) struct Watched(HashMap<String, (i64, i64)>);

impl Watched {
    /// What was refunded is not spent again: nothing is taken of a grant that has nothing left.
    pub(crate) fn spent_again(&mut self, seen: &Snapshot) -> Vec<String> {
        let mut found = Vec::new();
        for grant in &seen.grants {
            let now = (grant.spent + grant.held, grant.refunded);
            let before = self.0.insert(grant.id.clone(), now);
            let (taken, refunded) = before.unwrap_or_default();
            if now.0 > taken.max(grant.granted - refunded.min(grant.refunded)) {
                found.push(format!(
                    "{taken} were taken, {refunded} refunded before: {grant:?}"
                ));
            }
        }
        found
    }
}

/// What was sold or given, and what is known to have come of it.
struct Sale {
    user: String,
    /// Of a grant that a store tells of; an operator's is known by its amount, which no other has.
    source: Option<String>,
    amount: i64,
    /// It was told that the credits were given.
    is_known: bool,
    /// What was asked to be refunded in all, in order, and whether it was told that it was.
    refunds: Vec<(i64, bool)>,
}

/// The books of who sells.
#[derive(Default)]
pub(crate) struct Till {
    sales: Mutex<Vec<Sale>>,
    is_closed: AtomicBool,
}

impl Till {
    /// Sells nothing from now on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    fn open(&self, user: &User, source: Option<String>, amount: i64) -> usize {
        let mut sales = self.sales.lock().unwrap();
        sales.push(Sale {
            user: user.id.to_string(),
            source,
            amount,
            is_known: false,
            refunds: Vec::new(),
        });
        sales.len() - 1
    }

    /// All that the ledger says of grants and these books do not.
    pub(crate) fn disagreements(&self, seen: &Snapshot) -> Vec<String> {
        let sales = self.sales.lock().unwrap();
        let mut found = Vec::new();
        let mut explained = 0;
        for sale in sales.iter() {
            let source = sale.source.as_deref().unwrap_or("operator");
            let is_of = |grant: &&Grant| grant.source == source && grant.granted == sale.amount;
            let grants: Vec<&Grant> = seen.grants.iter().filter(is_of).collect();
            explained += grants.len();
            if grants.len() > 1 || (grants.is_empty() && sale.is_known && sale.refunds.is_empty()) {
                found.push(format!(
                    "{source} gave {} {} times",
                    sale.amount,
                    grants.len()
                ));
            }
            for grant in grants {
                let certain = sale.refunds.iter().rposition(|(_, is_known)| *is_known);
                let possible = sale.refunds[certain.unwrap_or(0)..].iter();
                let mut possible: Vec<i64> = possible.map(|(refunded, _)| *refunded).collect();
                if certain.is_none() {
                    possible.push(0);
                }
                if grant.user != sale.user || !possible.contains(&grant.refunded) {
                    found.push(format!("{possible:?} were refunded of it: {grant:?}"));
                }
            }
        }
        if explained != seen.grants.len() {
            found.push(format!(
                "{} grants, of which {explained} were given",
                seen.grants.len()
            ));
        }
        found
    }
}

/// What a user is told to have left, beside their grants. The product's clock is so many milliseconds ahead of ours.
pub(crate) async fn told_of_another_rest(
    crowd: &Crowd,
    seen: &Snapshot,
    (front, ahead): (&Arc<Front>, i64),
) -> Vec<String> {
    let now = tokens::now() * 1000 + ahead;
    let mut left: HashMap<&str, i64> = HashMap::new();
    for grant in &seen.grants {
        let lives = grant.ends < 0 || now < grant.ends;
        *left.entry(&grant.user).or_default() += if lives { grant.left() } else { 0 };
    }
    let mut found = Vec::new();
    for user in crowd.everybody() {
        let id = user.id.to_string();
        let Some(left) = left.get(id.as_str()) else {
            continue;
        };
        let call = Call::get("/api/me").bearer(&user.token);
        let me = front.send(call).await.json();
        let told = me["credits"]["remaining"].as_str().map_or(0, micros);
        if told != *left
            || me["credits"]["held"]
                .as_str()
                .is_some_and(|held| micros(held) != 0)
        {
            found.push(format!(
                "{id} has {left} left, and is told {}",
                me["credits"]
            ));
        }
    }
    found
}

/// How many credits were sold, given and spent, in a few words.
pub(crate) fn summary(seen: &Snapshot) -> String {
    let sum = |of: fn(&Grant) -> i64| seen.grants.iter().map(of).sum::<i64>();
    format!(
        "{} grants of {}, {} spent, {} refunded",
        seen.grants.len(),
        sum(|grant| grant.granted),
        sum(|grant| grant.spent),
        sum(|grant| grant.refunded)
    )
}

/// Those who have credits before they ask for anything.
pub(crate) async fn sells_in_advance(world: &World, crowd: &Crowd, till: &Till, dice: &mut Dice) {
    for user in crowd.buyers(Duration::ZERO) {
        sells(world, &user, till, dice).await;
    }
}

/// Sells, refunds and gives again and again until the till is closed.
pub(crate) async fn keeps_selling(
    world: Arc<World>,
    crowd: Arc<Crowd>,
    till: Arc<Till>,
    mut dice: Dice,
) {
    let mut operators = 0;
    while !till.is_closed.load(Ordering::SeqCst) {
        let mut own = dice.another();
        // Those who ask now, or who will after them.
        let buyers = crowd.buyers(world.elapsed() + crate::load::GENERATION * own.below(2) as u32);
        let user = buyers[own.below(buyers.len() as u64) as usize].clone();
        match own.below(8) {
            0 => {
                operators += 1;
                gives(&world, &user, &till, 1_000 + operators);
            }
            1..4 => refunds(&world, &user, &till, &mut own).await,
            _ => sells(&world, &user, &till, &mut own).await,
        }
        sleep(Duration::from_millis(50 + own.below(200))).await;
    }
}

/// An operator gives some, on the command line.
fn gives(world: &World, user: &User, till: &Till, amount: i64) {
    let sale = till.open(user, None, amount);
    let (id, amount) = (user.id.to_string(), format!("0.{amount:06}"));
    let given =
        tokio::task::block_in_place(|| world.door.tollgate(&["user", "grant", &id, &amount]));
    till.sales.lock().unwrap()[sale].is_known = given.code == Some(0);
}

async fn sells(world: &World, user: &User, till: &Till, dice: &mut Dice) {
    let (product, amount) = PRODUCTS[dice.below(2) as usize];
    let transaction = format!("T.{:016x}", dice.below(u64::MAX));
    let sale = till.open(user, Some(format!("play_store:{transaction}")), amount);
    let event = event("NON_RENEWING_PURCHASE", user, (product, &transaction), 0);
    let is_known = tells(world, &event, dice).await;
    till.sales.lock().unwrap()[sale].is_known = is_known;
}

/// A sale of this user is refunded, or the refund of one is taken back.
async fn refunds(world: &World, user: &User, till: &Till, dice: &mut Dice) {
    let id = user.id.to_string();
    let chosen = {
        let sales = till.sales.lock().unwrap();
        let theirs = sales.iter().enumerate();
        let theirs = theirs
            .filter(|(_, sale)| sale.user == id && sale.source.is_some() && sale.refunds.len() < 2);
        let theirs: Vec<usize> = theirs.map(|(number, _)| number).collect();
        if theirs.is_empty() {
            return;
        }
        theirs[dice.below(theirs.len() as u64) as usize]
    };
    let (source, amount, second) = {
        let sale = &mut till.sales.lock().unwrap()[chosen];
        let second = sale.refunds.len() as i64 + 1;
        let amount = if second == 1 { sale.amount } else { 0 };
        sale.refunds.push((amount, false));
        (sale.source.clone().unwrap(), sale.amount, second)
    };
    let (_, transaction) = source.split_once(':').unwrap();
    let product = PRODUCTS
        .iter()
        .find(|(_, gives)| *gives == amount)
        .unwrap()
        .0;
    let kind = ["CANCELLATION", "REFUND_REVERSED"][second as usize - 1];
    let event = event(kind, user, (product, transaction), second);
    let is_known = tells(world, &event, dice).await;
    till.sales.lock().unwrap()[chosen]
        .refunds
        .last_mut()
        .unwrap()
        .1 = is_known;
}

/// An event of `RevenueCat`, so many seconds after the purchase.
fn event(kind: &str, user: &User, (product, transaction): (&str, &str), second: i64) -> Value {
    let now = tokens::now() * 1000;
    json!({"api_version": "1.0", "event": {
        "id": format!("{transaction}-{kind}"), "type": kind, "event_timestamp_ms": 1_700_000_000_000_i64 + second * 1000,
        "app_user_id": user.id, "product_id": product, "purchased_at_ms": now, "environment": "PRODUCTION",
        "store": "PLAY_STORE", "transaction_id": transaction, "original_transaction_id": transaction,
        "cancel_reason": "CUSTOMER_SUPPORT",
    }})
}

/// Tells an event to one process or another until it is taken, and sometimes once more. Whether it was.
async fn tells(world: &World, event: &Value, dice: &mut Dice) -> bool {
    let call = || Call::post("/webhooks/revenuecat", event).header("authorization", AUTHORIZATION);
    for _ in 0..TRIES {
        let front = world.front(dice.below(u64::MAX));
        let told = timeout(Duration::from_secs(10), front.try_send(call())).await;
        if let Ok(Ok(answer)) = told
            && answer.status == 200
        {
            if dice.below(4) == 0 {
                drop(timeout(Duration::from_secs(10), front.try_send(call())).await);
            }
            return true;
        }
        sleep(Duration::from_millis(150)).await;
    }
    false
}
