//! Keys of requests that are sent again, in a file's ledger.

use rusqlite::{OptionalExtension, params};

use super::{Book, Failure};
use crate::clock::Timestamp;
use crate::ledger::HoldRequest;
use crate::ledger::idempotency::{Repetition, free_since};

impl Book {
    /// The request that took the key of this one, if it has a key and that is taken.
    pub(in crate::ledger) fn repetition(
        &self,
        request: &HoldRequest,
    ) -> Result<Option<Repetition>, Failure> {
        let Some(asked) = request.key_to_take() else {
            return Ok(None);
        };
        let mut read = self.db.prepare_cached(
            "select taken.request_id, taken.digest = ?4, first.state, coalesce(first.cost_micros, 0)
             from idempotency_keys taken left join requests first on first.id = taken.request_id
             where taken.user_id = ?1 and taken.key = ?2 and taken.made_at > ?3
               and first.state is not 'voided'",
        )?;
        let since = free_since(request.now).millis();
        let user = request.user_id.to_string();
        let asked = params![user, asked.key, since, asked.digest_text()];
        let taken = read.query_row(asked, |row| {
            let (id, state) = (row.get_ref(0)?.as_str()?, row.get_ref(2)?.as_str_or_null()?);
            Ok(Repetition::of_row(id, row.get(1)?, state, row.get(3)?))
        });
        Ok(taken.optional()?)
    }

    /// Takes the key of a request that is held in this transaction.
    pub(super) fn take_key(&self, request: &HoldRequest) -> Result<(), Failure> {
        let Some(taken) = request.key_to_take() else {
            return Ok(());
        };
        let mut write = self.db.prepare_cached(
            "insert or replace into idempotency_keys (user_id, key, digest, request_id, made_at)
             values (?1, ?2, ?3, ?4, ?5)",
        )?;
        write.execute(params![
            request.user_id.to_string(),
            taken.key,
            taken.digest_text(),
            request.id.to_string(),
            request.now.millis(),
        ])?;
        Ok(())
    }

    /// Forgets keys that are free because of their age, some at a time. Gives back how many.
    pub(super) fn forget_keys(&self, now: Timestamp) -> Result<usize, Failure> {
        let mut forget = self.db.prepare_cached(
            "delete from idempotency_keys where (user_id, key) in
               (select user_id, key from idempotency_keys where made_at <= ?1 limit 500)",
        )?;
        Ok(forget.execute([free_since(now).millis()])?)
    }
}
