//! One user and all of them: looking, and changing what they may.

use axum::extract::State;
use http::StatusCode;

use super::AdminState;
use super::caller::MayWrite;
use super::input::{ChangeRefusals, UserId};

/// Forget what is kept about a user's plan, so that their next request asks again
///
/// For the server that hears of a purchase. Each process of the product keeps its own.
#[utoipa::path(
    post,
    path = "/admin/users/{id}/refresh",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Forgotten"), ChangeRefusals)
)]
pub(super) async fn refresh(State(state): State<AdminState>, _: MayWrite, UserId(user_id): UserId) -> StatusCode {
    state.app.directory.refresh(user_id);
    StatusCode::NO_CONTENT
}
