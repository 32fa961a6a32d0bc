//! The names that apps may ask for.

use axum::Json;
use axum::extract::State;

use super::caller::MayRead;
use super::input::AdminRefusals;
use super::{AdminState, page_of};
use crate::error::Refusal;
use crate::operator::queries::Page;
use crate::operator::queries::models::{self, NamedModel};

/// Every name that apps may ask for: what answers, its price, its last day, its plans, and its spending in 30 days
#[utoipa::path(
    get,
    path = "/admin/models",
    tag = "usage",
    responses((status = 200, body = Page<NamedModel>), AdminRefusals)
)]
pub(super) async fn all_models(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Page<NamedModel>>, Refusal> {
    let (config, now) = (state.app.config(), state.app.clock.now());
    state
        .read(move |reports| models::list(Some(reports), &config, now))
        .await
        .map(page_of)
}
