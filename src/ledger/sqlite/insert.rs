//! How the row of a hold is written: by one of two statements, of which the shorter leaves out what most requests do not say.

use rusqlite::ToSql;
use uuid::Uuid;

use super::batch::{Batch, text_of};
use super::{Failure, to_i64};
use crate::ledger::HoldRequest;
use crate::plan::{Hold, PaidBy};

pub(super) const INSERT_REQUEST: &str = "
    insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens,
                          held_micros, started_at, owner, price_id, requested_model, feature, held_audio_seconds,
                          held_characters, held_images, plan_model, prompt_version, paid_by)
    values (?1, ?2, ?3, ?4, ?5, ?6, 'held', ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

/// The same of a request that leaves the last eight at their defaults, as most do: each binding has its price.
pub(super) const INSERT_PLAIN_REQUEST: &str = "
    insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens,
                          held_micros, started_at, owner, price_id)
    values (?1, ?2, ?3, ?4, ?5, ?6, 'held', ?7, ?8, ?9, ?10, ?11, ?12)";

impl Batch<'_> {
    /// Writes it; the price is in the file.
    pub(super) fn insert_request(
        &mut self,
        user: &str,
        request: &HoldRequest,
        hold: &Hold,
        price_id: &str,
    ) -> Result<(), Failure> {
        let most = &hold.quantities;
        let mut id = Uuid::encode_buffer();
        let always: [&dyn ToSql; 12] = [
            &text_of(request.id, &mut id),
            &user,
            &request.plan,
            &request.endpoint,
            &request.model,
            &request.upstream,
            &to_i64(most.input_tokens),
            &to_i64(most.output_tokens),
            &hold.amounts.cost,
            &request.now.millis(),
            &self.book.owner,
            &price_id,
        ];
        let seldom: [&dyn ToSql; 8] = [
            &request.requested_model,
            &request.feature,
            &to_i64(most.audio_seconds),
            &to_i64(most.characters),
            &to_i64(most.images),
            &request.plan_model,
            &request.prompt_version,
            &hold.paid_by.as_str(),
        ];
        let (statement, seldom) = if is_plain(request, hold) {
            let plain = &mut self.insert_plain;
            (self.book.at_hand(plain, INSERT_PLAIN_REQUEST)?, &[][..])
        } else {
            (
                self.book.at_hand(&mut self.insert, INSERT_REQUEST)?,
                &seldom[..],
            )
        };
        for (place, value) in (1_usize..).zip(always.iter().chain(seldom)) {
            statement.raw_bind_parameter(place, value)?;
        }
        statement.raw_execute()?;
        Ok(())
    }
}

/// Whether the columns that seldom say anything are at their defaults.
fn is_plain(request: &HoldRequest, hold: &Hold) -> bool {
    let most = &hold.quantities;
    let names = [
        &request.requested_model,
        &request.feature,
        &request.plan_model,
        &request.prompt_version,
    ];
    (most.audio_seconds, most.characters, most.images) == (0, 0, 0)
        && names.into_iter().all(Option::is_none)
        && hold.paid_by == PaidBy::Plan
}
