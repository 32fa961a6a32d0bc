//! A hold in the place of another: a request that another candidate is asked for holds what that may cost.

use rusqlite::params;
use uuid::Uuid;

use super::batch::{Batch, text_of};
use super::{Failure, OpenHold, to_i64};
use crate::ledger::sqlite::window_cache::Change;
use crate::ledger::{HoldRequest, NoHold};
use crate::plan::{Hold, PaidBy};

/// Only where it holds what it is thought to hold.
const REPLACE_HOLD: &str = "
    update requests set model = ?2, plan_model = ?3, requested_model = ?4, upstream = ?5, price_id = ?6,
           held_input_tokens = ?7, held_output_tokens = ?8, held_micros = ?9, held_audio_seconds = ?10,
           held_characters = ?11, held_images = ?12, paid_by = ?16
    where id = ?1 and state = 'held' and held_input_tokens = ?13 and held_output_tokens = ?14 and held_micros = ?15
      and paid_by = ?17";

impl Batch<'_> {
    /// Puts a hold in the place of the one that an open request has; nothing is held for one that has ended meanwhile.
    pub(super) fn replace(
        &self,
        user: String,
        request: &HoldRequest,
        (old, hold): (&Hold, Hold),
        price_id: &str,
    ) -> Result<Result<Hold, NoHold>, Failure> {
        let (had, most) = (&old.quantities, &hold.quantities);
        let replaced = self.book.db.prepare_cached(REPLACE_HOLD)?.execute(params![
            text_of(request.id, &mut Uuid::encode_buffer()),
            request.model,
            request.plan_model,
            request.requested_model,
            request.upstream,
            price_id,
            to_i64(most.input_tokens),
            to_i64(most.output_tokens),
            hold.amounts.cost,
            to_i64(most.audio_seconds),
            to_i64(most.characters),
            to_i64(most.images),
            to_i64(had.input_tokens),
            to_i64(had.output_tokens),
            old.amounts.cost,
            hold.paid_by.as_str(),
            old.paid_by.as_str(),
        ])?;
        if replaced == 0 {
            return Ok(Err(NoHold::Store));
        }
        let open = |hold: &Hold, user| OpenHold {
            user,
            at: request.now,
            held: hold.quantities,
            cost: hold.amounts.cost,
            paid_by: hold.paid_by,
        };
        let (before, after) = (open(old, user.clone()), open(&hold, user));
        let id = request.id.to_string();
        if before.paid_by == PaidBy::Credits {
            self.book.release_credits(&id)?;
        }
        if after.paid_by == PaidBy::Credits {
            let (user, now) = (after.user.as_str(), request.now);
            self.book.hold_credits(&id, (user, now), after.cost)?;
        }
        let by_credits = after.of_credits().saturating_sub(before.of_credits());
        self.book.change(
            &after,
            &Change {
                held: after.amounts().minus(before.amounts()),
                ..Change::default()
            },
            (by_credits, 0),
        );
        self.book.open.borrow_mut().insert(request.id, after);
        Ok(Ok(hold))
    }
}
