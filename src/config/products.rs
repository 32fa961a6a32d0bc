//! `[products.*]`: what a product of a store gives.
//!
//! Invariant: its plan exists, and once two products name different plans, each of those plans has a rank.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::findings::{Invalid, Problem};
use super::reader::Section;
use super::values::dollars;
use super::{Config, plans};
use crate::plan::{Plans, Product, Products};

/// How many products there may be.
const PRODUCTS_MAX: usize = 10_000;
/// The longest name of a product.
const NAME_BYTES_MAX: usize = 256;
/// The longest time that a product counts.
const DURATION_MAX: Duration = Duration::from_hours(24 * 36_600);

impl Config {
    /// What a purchase in a store's sandbox gives, as App Review and `TestFlight` make it; in words.
    #[must_use]
    pub fn sandbox_told(&self) -> String {
        let whose = "App Review and TestFlight buy in the sandbox";
        match &self.products.sandbox_plan {
            Some(plan) => format!("{whose}: what they buy gives the plan {plan}, and no credits"),
            None => format!(
                "{whose}: what they buy gives nothing, and they stay on the plan {}",
                self.plans.default.name
            ),
        }
    }
}

/// A product, and whether it has a rank of its own.
struct RankedProduct {
    product: Product,
    rank: Option<u32>,
}

/// `[products.*]`. `ranks` are those of the plans that have one.
pub(super) fn products(
    section: &Section<'_>,
    plans: Option<&Plans>,
    ranks: &BTreeMap<String, u32>,
) -> Result<Products, Invalid> {
    let mut by_name = BTreeMap::new();
    let mut complete = true;
    for key in section.keys() {
        let read = section
            .section(key)
            .and_then(|section| product(key, &section, plans));
        match read {
            Ok(product) => drop(by_name.insert(key.to_owned(), product)),
            Err(Invalid) => complete = false,
        }
    }
    if by_name.len() > PRODUCTS_MAX {
        let problem = format!("has more than {PRODUCTS_MAX} products");
        let what = Problem::new(problem, "take some out");
        return Err(section.findings.error("products", section.origin, what));
    }
    if !complete {
        return Err(Invalid);
    }
    check_ranks(section, &by_name, ranks)?;
    let ranked = |(name, it): (String, RankedProduct)| {
        let of_plan = it.product.plan.as_ref().and_then(|plan| ranks.get(plan));
        let rank = it.rank.or(of_plan.copied()).unwrap_or(0);
        (name, Product { rank, ..it.product })
    };
    Ok(Products {
        by_name: by_name.into_iter().map(ranked).collect(),
        sandbox_plan: None,
    })
}

/// Where two plans can be bought, each says which goes before the other.
fn check_ranks(
    section: &Section<'_>,
    products: &BTreeMap<String, RankedProduct>,
    ranks: &BTreeMap<String, u32>,
) -> Result<(), Invalid> {
    let bought = products
        .values()
        .filter_map(|it| it.product.plan.as_deref());
    let plans: BTreeSet<&str> = bought.collect();
    if plans.len() < 2 {
        return Ok(());
    }
    let has_none = |it: &RankedProduct| {
        let plan = it.product.plan.as_ref();
        it.rank.is_none() && plan.is_some_and(|plan| !ranks.contains_key(plan))
    };
    let missing = products.values().find(|it| has_none(it));
    let Some(plan) = missing.and_then(|it| it.product.plan.as_ref()) else {
        return Ok(());
    };
    let names: Vec<&str> = plans.into_iter().collect();
    let problem = format!(
        "is missing, and products give different plans ({}): which one decides if a user has bought both?",
        names.join(", ")
    );
    let fix = format!(
        "write rank = 1 in [plans.{plan}]; of two purchases the plan with the higher rank decides"
    );
    let key = format!("plans.{plan}.rank");
    Err(section
        .findings
        .error(key, section.origin, Problem::new(problem, fix)))
}

fn product(
    name: &str,
    section: &Section<'_>,
    plans: Option<&Plans>,
) -> Result<RankedProduct, Invalid> {
    let known = |plan: &str| match plans {
        Some(plans) if !plans.by_name.contains_key(plan) => {
            let fix = format!("name one of: {}", plans::names(plans));
            let problem = format!("names the plan `{plan}`, which there is not");
            Err(Problem::new(problem, fix))
        }
        _ => Ok(plan.to_owned()),
    };
    let plan = section.maybe("plan", "pro", known);
    let rank = section.maybe_integer("rank", 0..=plans::RANK_MAX);
    let longest = Duration::from_mins(1)..=DURATION_MAX;
    let duration = section.maybe_duration("duration", longest.clone());
    let credit = section.maybe("credit_usd", "1.00", dollars);
    let credit_expires = section.maybe_duration("expires", longest);
    section.finish();
    let product = Product {
        plan: plan?,
        rank: 0,
        duration: duration?,
        credit: credit?,
        credit_expires: credit_expires?,
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let fix = "name it as the store does: [products.\"com.example.pro.monthly\"]";
        let what = Problem::new("is no name of a product", fix);
        return Err(section.findings.error("products", section.origin, what));
    }
    if product.plan.is_none() && product.credit.is_none() {
        let fix = "write plan = \"pro\", or credit_usd = \"1.00\"";
        return Err(section.wrong(
            "plan",
            Problem::new("is missing: the product gives nothing", fix),
        ));
    }
    if product.credit_expires.is_some() && product.credit.is_none() {
        let fix = "write credit_usd, or duration for how long the plan counts";
        let what = Problem::new("is the end of credits, and there are none", fix);
        return Err(section.wrong("expires", what));
    }
    Ok(RankedProduct {
        product,
        rank: rank?,
    })
}
