//! How long the model may think: the plan's highest effort.

use super::model_choice::Choice;
use crate::model::{Effort, Model, Tokenizer};
use crate::plan::Plan;
use crate::price::Price;

/// The effort of one request, and what follows from it.
pub(super) struct SettledEffort {
    /// What the request is to say.
    pub(super) sent: Option<Effort>,
    /// It says something else.
    pub(super) is_changed: bool,
    /// The model may reason, and then refuses some fields.
    pub(super) refuses: bool,
    /// The model certainly does not reason.
    pub(super) is_plain: bool,
}

/// Lowers the effort that a request asks for to the plan's.
pub(super) fn settle(said: Option<&str>, choice: &Choice<'_>, plan: &Plan) -> SettledEffort {
    let unknown = Model::default();
    let model = choice.known.unwrap_or(&unknown);
    let said = said.and_then(Effort::parse);
    let asked = if choice.alias.is_some() {
        suited(said, model, choice.price)
    } else {
        said
    };
    let effort = model.effort(asked, plan.reasoning_effort_max);
    SettledEffort {
        sent: effort.sent,
        is_changed: effort.sent != said,
        refuses: !effort.is_none && model.refuses_something(),
        is_plain: !choice.price.reasoning || effort.is_none,
    }
}

/// Who asks for the operator's name does not know which model answers: it gets an effort that it takes, and a model of
/// OpenAI's that does not reason (they refuse the field) gets none.
fn suited(asked: Option<Effort>, model: &Model, price: &Price) -> Option<Effort> {
    let reasons = price.reasoning || price.tokenizer == Tokenizer::Unknown;
    asked
        .filter(|_| reasons)
        .map(|effort| model.nearest(effort))
}
