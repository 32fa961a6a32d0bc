//! What products of a store give, and which of a user's purchases decides. Pure.
//!
//! A purchase is stored by its product; what that gives is in the settings and is looked up each time, so a change of them
//! counts at once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Period, Plans};
use crate::clock::Timestamp;
use crate::price::MicroUsd;

/// A store's clock may be ahead of ours: a purchase counts this long before it begins.
const AHEAD: Duration = Duration::from_mins(5);

/// What a product gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Product {
    /// A plan, by its name.
    pub plan: Option<String>,
    /// Of two live purchases the higher one decides. Its own, or its plan's.
    pub rank: u32,
    /// How long it counts where the store names no end; `None` for ever.
    pub duration: Option<Duration>,
    /// Credits.
    pub credit: Option<MicroUsd>,
    /// How long the credits count; `None` for ever.
    pub credit_expires: Option<Duration>,
}

/// `[products.*]`, and what the sandbox gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Products {
    /// By the store's name of each.
    pub by_name: BTreeMap<String, Product>,
    /// The plan of whatever was bought in a store's sandbox; `None` for no plan.
    pub sandbox_plan: Option<String>,
}

/// A transaction of a user, as far as it matters for their plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purchase {
    /// `app_store`, `play_store`, `stripe` …
    pub store: String,
    /// The store's name of the product.
    pub product: String,
    /// When its time began.
    pub purchased_at: Timestamp,
    /// The end that the store named at the purchase; `None` for none.
    pub expires_at: Option<Timestamp>,
    /// When it stops to count by all that is known: grace, refund, upgrade; `None` for never.
    pub ends_at: Option<Timestamp>,
    /// No money was paid.
    pub is_sandbox: bool,
    /// Whether the store will renew it, where it said so.
    pub will_renew: Option<bool>,
}

/// What a purchase gives, whether or not it counts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gift<'a> {
    /// The plan.
    pub plan: Option<&'a str>,
    /// Credits, of each piece.
    pub credit: Option<MicroUsd>,
    /// When it stops to count; `None` for never.
    pub ends_at: Option<Timestamp>,
}

/// A purchase that gives a plan now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePurchase {
    /// What was bought.
    pub purchase: Purchase,
    /// The plan that it gives.
    pub plan: String,
    /// When the plan ends; `None` for never.
    pub ends_at: Option<Timestamp>,
    rank: u32,
}

impl LivePurchase {
    /// The period of `period` limits: what was paid for, and a grace after it as one of its own. None without an end.
    #[must_use]
    pub fn period(&self, now: Timestamp) -> Option<Period> {
        let (bought, ends_at) = (&self.purchase, self.ends_at?);
        let paid_until = bought.expires_at.unwrap_or(ends_at);
        let (start, end) = if now < paid_until {
            (bought.purchased_at, paid_until)
        } else {
            (paid_until, ends_at)
        };
        Some(Period { start, end })
    }
}

impl Products {
    /// What a product gives, if anything is known of it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Product> {
        self.by_name.get(name)
    }

    /// The purchases that give a plan at a moment, the one that decides first: by rank, then by the later end, then by the
    /// later beginning.
    #[must_use]
    pub fn live(&self, purchases: &[Purchase], plans: &Plans, now: Timestamp) -> Vec<LivePurchase> {
        let live = purchases.iter().filter_map(|it| self.at(it, plans, now));
        let mut live: Vec<LivePurchase> = live.collect();
        live.sort_by(|one, other| {
            let key = |it: &LivePurchase| {
                let end = it.ends_at.unwrap_or(Timestamp::MAX);
                (it.rank, end, it.purchase.purchased_at)
            };
            let by_key = key(other).cmp(&key(one));
            by_key.then_with(|| one.purchase.product.cmp(&other.purchase.product))
        });
        live
    }

    /// What a purchase gives. The sandbox gives its own plan, and no credits.
    #[must_use]
    pub fn gift(&self, purchase: &Purchase) -> Gift<'_> {
        let product = self.get(&purchase.product);
        // What is no plan's product in earnest is none in the sandbox.
        let plan = product.and_then(|product| product.plan.as_ref());
        let plan = if purchase.is_sandbox {
            plan.and(self.sandbox_plan.as_ref())
        } else {
            plan
        };
        let counted = product
            .filter(|_| purchase.expires_at.is_none())
            .and_then(|product| product.duration)
            .map(|duration| purchase.purchased_at.plus(duration));
        let ends_at = match (purchase.ends_at, counted) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let credit = product.and_then(|product| product.credit);
        Gift {
            plan: plan.map(String::as_str),
            credit: credit.filter(|_| !purchase.is_sandbox),
            ends_at,
        }
    }

    fn at(&self, purchase: &Purchase, plans: &Plans, now: Timestamp) -> Option<LivePurchase> {
        let gift = self.gift(purchase);
        let plan = gift.plan.filter(|name| plans.by_name.contains_key(*name))?;
        let begins = purchase.purchased_at.minus(AHEAD);
        let counts = begins <= now && gift.ends_at.is_none_or(|end| now < end);
        counts.then(|| LivePurchase {
            purchase: purchase.clone(),
            plan: plan.to_owned(),
            ends_at: gift.ends_at,
            rank: self
                .get(&purchase.product)
                .map_or(0, |product| product.rank),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{ImageCaps, Plan};
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_secs(day.saturating_mul(86_400).saturating_add(1_790_000_000))
    }

    fn plans() -> Plans {
        let plan = |name: &str| {
            Arc::new(Plan {
                name: name.to_owned(),
                models: vec!["m".to_owned()],
                max_output_tokens: 1,
                max_input_tokens: 1,
                max_choices: 1,
                images: ImageCaps::default(),
                audio_seconds_max: 600,
                reasoning_effort_max: None,
                moderates_input: false,
                attested: None,
                concurrent_requests: None,
                limits: Vec::new(),
            })
        };
        let names = ["free", "pro", "max", "test"];
        Plans {
            by_name: names.map(|name| (name.to_owned(), plan(name))).into(),
            default: plan("free"),
        }
    }

    fn products() -> Products {
        let of = |plan: &str, rank, days: Option<u64>| Product {
            plan: Some(plan.to_owned()),
            rank,
            duration: days.map(|days| Duration::from_hours(days.saturating_mul(24))),
            ..Product::default()
        };
        let credit = Product {
            credit: Some(MicroUsd(1)),
            ..Product::default()
        };
        let all = [
            ("pro", of("pro", 1, None)),
            ("week", of("pro", 1, Some(7))),
            ("max", of("max", 2, None)),
            ("gone", of("gone", 9, None)),
            ("coins", credit),
        ];
        Products {
            by_name: all.map(|(name, product)| (name.to_owned(), product)).into(),
            sandbox_plan: None,
        }
    }

    fn bought(product: &str, from: i64, until: Option<i64>) -> Purchase {
        Purchase {
            store: "app_store".to_owned(),
            product: product.to_owned(),
            purchased_at: at(from),
            expires_at: until.map(at),
            ends_at: until.map(at),
            is_sandbox: false,
            will_renew: None,
        }
    }

    fn names(products: &Products, purchases: &[Purchase], now: Timestamp) -> Vec<String> {
        let live = products.live(purchases, &plans(), now);
        live.into_iter().map(|it| it.purchase.product).collect()
    }

    #[test]
    fn the_highest_live_purchase_decides_then_the_one_that_lasts_longest() {
        let all = [
            bought("week", 0, None),
            bought("pro", 0, Some(30)),
            bought("max", 0, Some(10)),
            bought("gone", 0, None),
            bought("coins", 0, None),
            bought("nobody.knows", 0, None),
        ];
        let products = products();
        assert_eq!(names(&products, &all, at(1)), ["max", "pro", "week"]);
        assert_eq!(names(&products, &all, at(8)), ["max", "pro"]);
        assert_eq!(names(&products, &all, at(10)), ["pro"]);
        let last = Timestamp::from_millis(at(30).millis() - 1);
        assert_eq!(names(&products, &all, last), ["pro"]);
        assert!(names(&products, &all, at(30)).is_empty());
        // Not before it begins, but for what clocks may differ.
        assert!(names(&products, &all, at(-1)).is_empty());
        let soon = Timestamp::from_millis(at(0).millis() - 1000);
        assert_eq!(names(&products, &all, soon).len(), 3);
    }

    #[test]
    fn the_sandbox_gives_its_own_plan_or_none() {
        let mut products = products();
        let mut bought = [bought("max", 0, Some(30)), bought("coins", 0, None)];
        for purchase in &mut bought {
            purchase.is_sandbox = true;
        }
        assert!(names(&products, &bought, at(1)).is_empty());
        products.sandbox_plan = Some("test".to_owned());
        let live = products.live(&bought, &plans(), at(1));
        let [live] = live.as_slice() else {
            unreachable!("one product of a plan: {live:?}")
        };
        assert_eq!(live.plan, "test");
    }

    #[test]
    fn a_grace_is_a_period_of_its_own_so_that_its_length_moves_no_window() {
        let mut purchase = bought("pro", 0, Some(30));
        let period = |purchase: &Purchase, day| {
            let live = products().live(std::slice::from_ref(purchase), &plans(), at(day));
            live.first().and_then(|live| live.period(at(day)))
        };
        let paid = Some(Period {
            start: at(0),
            end: at(30),
        });
        assert_eq!(period(&purchase, 1), paid);
        purchase.ends_at = Some(at(36));
        assert_eq!(period(&purchase, 1), paid);
        let grace = Some(Period {
            start: at(30),
            end: at(36),
        });
        assert_eq!(period(&purchase, 31), grace);
        assert_eq!(period(&bought("max", 0, None), 31), None);
        assert_eq!(
            period(&bought("week", 0, None), 1),
            Some(Period {
                start: at(0),
                end: at(7)
            })
        );
    }
}
