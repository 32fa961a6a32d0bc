//! What the operator and the plan make of a request before it is priced.

use super::check::{self, LOGPROBS};
use super::wire::{Reasoning, ResponsesBody, Set, TextOptions};
use crate::endpoint::effort::{self, SettledEffort};
use crate::endpoint::json;
use crate::endpoint::model_choice::Choice;
use crate::error::Refusal;
use crate::model::{Alias, Model};
use crate::plan::Plan;

/// Lays what goes with a name over and under a request.
///
/// # Errors
/// None: the settings were checked by the same reader.
pub(super) fn apply(request: &mut ResponsesBody, alias: &Alias) -> Result<(), Refusal> {
    if let Some(set) = &alias.set {
        let set: Set = json::read(set.as_bytes())?;
        lay(request, set, true);
    }
    if let Some(defaults) = &alias.defaults {
        let defaults: Set = json::read(defaults.as_bytes())?;
        lay(request, defaults, false);
    }
    Ok(())
}

fn lay(request: &mut ResponsesBody, set: Set, is_over: bool) {
    fn put<T>(member: &mut Option<T>, value: Option<T>, is_over: bool) {
        if value.is_some() && (is_over || member.is_none()) {
            *member = value;
        }
    }
    let cap = set
        .max_output_tokens
        .or(set.max_completion_tokens)
        .or(set.max_tokens);
    // A smaller cap of another API's name is raised to what this one takes.
    let cap = cap.map(|cap| cap.max(i64::from(check::CAP_MIN)));
    put(&mut request.max_output_tokens, cap, is_over);
    put(&mut request.temperature, set.temperature, is_over);
    put(&mut request.top_p, set.top_p, is_over);
    if set.reasoning_effort.is_some() {
        let reasoning = request.reasoning.get_or_insert_default();
        put(&mut reasoning.effort, set.reasoning_effort, is_over);
    }
    if set.verbosity.is_some() {
        let text = request.text.get_or_insert_with(TextOptions::default);
        put(&mut text.verbosity, set.verbosity, is_over);
    }
}

/// Lowers the effort of a request to the plan's, and takes out what the model would refuse with it. True if the model
/// certainly does not reason then.
pub(super) fn effort(request: &mut ResponsesBody, choice: &Choice<'_>, plan: &Plan) -> bool {
    let said = request.reasoning.as_ref();
    let said = said.and_then(|reasoning| reasoning.effort.as_deref());
    let SettledEffort {
        sent,
        is_changed,
        refuses,
        is_plain,
    } = effort::settle(said, choice, plan);
    if is_changed {
        let word = sent.map(|effort| effort.as_str().to_owned());
        let reasoning = request.reasoning.get_or_insert_default();
        reasoning.effort = word;
    }
    drop(
        request
            .reasoning
            .take_if(|reasoning| *reasoning == Reasoning::default()),
    );
    if let Some(model) = choice.known.filter(|_| refuses) {
        drop_refused(request, model);
    }
    is_plain
}

/// Sampling fields that shape nothing while a model reasons, and that some models answer with 400.
fn drop_refused(request: &mut ResponsesBody, model: &Model) {
    let drop = |name: &str| model.refuses(name);
    request.temperature.take_if(|_| drop("temperature"));
    request.top_p.take_if(|_| drop("top_p"));
    request.top_logprobs.take_if(|_| drop("top_logprobs"));
    if let Some(include) = request.include.as_mut().filter(|_| drop("logprobs")) {
        include.0.retain(|word| word != LOGPROBS);
    }
    request.include.take_if(|include| include.0.is_empty());
}
