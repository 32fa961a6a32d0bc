//! How much the model may think: the plan's highest effort, the budget of thoughts, and what a model refuses.
//!
//! Anthropic has two ways to say it: an effort (`output_config.effort`), and whether the model thinks at all (`thinking`),
//! for its older models with a budget in tokens. An effort of `none` is no thinking, and the lowest effort of the others.

use super::check::BUDGET_MIN;
use super::wire::{OutputConfig, Request, Thinking};
use crate::endpoint::model_choice::Choice;
use crate::error::{Code, Refusal};
use crate::model::{Effort, Model};
use crate::plan::Plan;

/// A budget for thoughts leaves so many tokens for the answer, where the output cap is not much larger than the least.
const ANSWER_TOKENS: u32 = 64;

/// The most tokens that a model may think, by the plan's highest effort; none: as many as the caller says.
const fn budget_max(most: Effort) -> Option<u32> {
    match most {
        Effort::None | Effort::Minimal => Some(BUDGET_MIN),
        Effort::Low => Some(2_048),
        Effort::Medium => Some(8_192),
        Effort::High => Some(24_576),
        Effort::Xhigh => Some(65_536),
        Effort::Max => None,
    }
}

/// Lowers what a request asks to the plan's highest effort, and takes out what the model refuses.
pub(super) fn settle(request: &mut Request, choice: &Choice<'_>, plan: &Plan) {
    let unknown = Model::default();
    let model = choice.known.unwrap_or(&unknown);
    let said = request
        .output_config
        .as_ref()
        .and_then(|config| config.effort.as_deref());
    let said = said.and_then(Effort::parse);
    // Who asks for the operator's name does not know which model answers.
    let asked = said.map(|effort| match choice.alias {
        Some(_) => model.nearest(effort),
        None => effort,
    });
    let effort = model.effort(asked, plan.reasoning_effort_max).sent;
    if effort != said {
        let config = request
            .output_config
            .get_or_insert_with(OutputConfig::default);
        // The API has no word for less.
        config.effort = effort.map(|effort| effort.max(Effort::Low).as_str().to_owned());
    }
    if let Some(most) = plan.reasoning_effort_max {
        lower_thinking(&mut request.thinking, effort, (model, most));
    }
    let refuses = |name: &str| model.refuses(name);
    request.temperature.take_if(|_| refuses("temperature"));
    request.top_p.take_if(|_| refuses("top_p"));
    request.top_k.take_if(|_| refuses("top_k"));
}

fn lower_thinking(
    thinking: &mut Option<Thinking>,
    effort: Option<Effort>,
    (model, most): (&Model, Effort),
) {
    let is_asked = thinking.as_ref().is_some_and(Thinking::is_on);
    // A model of which nothing is known thinks only where it is asked to; one that always thinks has no `none`.
    let can_stop = model.nearest(Effort::None) == Effort::None;
    let stops = effort == Some(Effort::None) || (is_asked && most == Effort::None);
    if stops && can_stop {
        *thinking = Some(Thinking {
            kind: Some("disabled".to_owned()),
            ..Thinking::default()
        });
        return;
    }
    let budget = thinking
        .as_mut()
        .and_then(|thinking| thinking.budget_tokens.as_mut());
    if let (Some(budget), Some(most)) = (budget, budget_max(most)) {
        *budget = (*budget).min(i64::from(most));
    }
}

impl Thinking {
    /// The model may think.
    pub(super) fn is_on(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind != "disabled")
    }

    fn budget(&self) -> Option<u32> {
        let budget = self.budget_tokens?;
        Some(u32::try_from(budget).unwrap_or(u32::MAX))
    }
}

/// The least output cap under which a request can be sent: thoughts have a least budget, and an answer follows them.
pub(super) fn least_cap(thinking: Option<&Thinking>) -> u32 {
    let budget = thinking.and_then(Thinking::budget);
    budget.map_or(1, |_| BUDGET_MIN.saturating_add(1))
}

/// Whether a cap of the plan's is enough for the thoughts.
///
/// # Errors
/// `quota_exceeded`.
pub(super) fn check_cap(thinking: Option<&Thinking>, cap: u32, plan: &Plan) -> Result<(), Refusal> {
    let least = least_cap(thinking);
    if cap >= least {
        return Ok(());
    }
    let message = format!(
        "Your plan allows answers of {cap} tokens, and `thinking` with a budget needs at least {least}. Send no `thinking`."
    );
    let refusal = Refusal::new(Code::QuotaExceeded, message);
    Err(refusal.with("plan", serde_json::Value::from(plan.name.as_str())))
}

/// Thinking as it is sent with an output cap: the budget is below it.
pub(super) fn within(thinking: &Thinking, cap: u32) -> Thinking {
    let budget = thinking.budget().map(|budget| {
        let room = cap.saturating_sub(ANSWER_TOKENS).max(BUDGET_MIN);
        i64::from(budget.min(room))
    });
    Thinking {
        budget_tokens: budget,
        ..thinking.clone()
    }
}
