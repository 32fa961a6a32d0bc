//! How long the model may think: the plan's highest effort, and what a model refuses while it thinks.

use super::wire::Request;
use crate::model::{Effort, Model};
use crate::plan::Plan;
use crate::price::Price;

/// Lowers the effort of a request to the plan's, and takes out what the model would refuse with it. True if the model
/// certainly does not reason then.
pub(super) fn settle(request: &mut Request, price: &Price, known: Option<&Model>, plan: &Plan) -> bool {
    let unknown = Model::default();
    let model = known.unwrap_or(&unknown);
    let asked = request.reasoning_effort.as_deref().and_then(Effort::parse);
    let choice = model.effort(asked, plan.reasoning_effort_max);
    if choice.sent != asked {
        request.reasoning_effort = choice.sent.map(|effort| effort.as_str().to_owned());
    }
    if !choice.is_none && model.refuses_something() {
        drop_refused(request, model);
    }
    !price.reasoning || choice.is_none
}

/// Sampling fields that shape nothing while a model reasons, and that some models answer with 400.
fn drop_refused(request: &mut Request, model: &Model) {
    let drop = |name: &str| model.refuses(name);
    request.temperature.take_if(|_| drop("temperature"));
    request.top_p.take_if(|_| drop("top_p"));
    request.presence_penalty.take_if(|_| drop("presence_penalty"));
    request.frequency_penalty.take_if(|_| drop("frequency_penalty"));
    request.logit_bias.take_if(|_| drop("logit_bias"));
    request.logprobs.take_if(|_| drop("logprobs"));
    request.top_logprobs.take_if(|_| drop("top_logprobs"));
}
