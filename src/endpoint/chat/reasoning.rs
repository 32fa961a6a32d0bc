//! How long the model may think, and what it refuses while it thinks.

use super::wire::Request;
use crate::endpoint::effort::{self, SettledEffort};
use crate::endpoint::model_choice::Choice;
use crate::model::Model;
use crate::plan::Plan;

/// Lowers the effort of a request to the plan's, and takes out what the model would refuse with it. True if the model
/// certainly does not reason then.
pub(super) fn settle(request: &mut Request, choice: &Choice<'_>, plan: &Plan) -> bool {
    let SettledEffort {
        sent,
        is_changed,
        refuses,
        is_plain,
    } = effort::settle(request.reasoning_effort.as_deref(), choice, plan);
    if is_changed {
        request.reasoning_effort = sent.map(|effort| effort.as_str().to_owned());
    }
    if let Some(model) = choice.known.filter(|_| refuses) {
        drop_refused(request, model);
    }
    is_plain
}

/// Sampling fields that shape nothing while a model reasons, and that some models answer with 400.
fn drop_refused(request: &mut Request, model: &Model) {
    let drop = |name: &str| model.refuses(name);
    request.temperature.take_if(|_| drop("temperature"));
    request.top_p.take_if(|_| drop("top_p"));
    request
        .presence_penalty
        .take_if(|_| drop("presence_penalty"));
    request
        .frequency_penalty
        .take_if(|_| drop("frequency_penalty"));
    request.logit_bias.take_if(|_| drop("logit_bias"));
    request.logprobs.take_if(|_| drop("logprobs"));
    request.top_logprobs.take_if(|_| drop("top_logprobs"));
}
