//! The prompts that live on the server, with their texts and what they cost.

use std::time::Duration;

use axum::Json;
use axum::extract::State;

use super::caller::MayRead;
use super::input::AdminRefusals;
use super::{AdminState, page_of};
use crate::error::Refusal;
use crate::operator::queries::Page;
use crate::operator::queries::prompts::{self, PromptRow};

/// How far back requests are summed up.
const LOOKS_BACK: Duration = Duration::from_hours(30 * 24);

/// The prompts that live on the server, by name
///
/// Requests and spending are those of the last 30 days.
#[utoipa::path(
    get,
    path = "/admin/prompts",
    tag = "usage",
    responses((status = 200, body = Page<PromptRow>), AdminRefusals)
)]
pub(super) async fn all(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Page<PromptRow>>, Refusal> {
    let config = state.app.config();
    let from = state.app.clock.now().minus(LOOKS_BACK);
    state
        .read(move |reports| prompts::list(reports, &config.prompts, from))
        .await
        .map(page_of)
}
