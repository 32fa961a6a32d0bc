//! Keys of devices that App Attest has attested: whose, and how often each has signed.

use uuid::Uuid;

use super::Failure;
use super::read::connection::Db;
use crate::clock::Timestamp;

/// How many keys of one user are kept: those that signed last.
const USER_KEYS_MAX: i64 = 8;
/// How many keys are kept in all: those that signed last.
const KEYS_MAX: i64 = 1_000_000;

/// Keeps a new key. False where it is known.
///
/// # Errors
/// The ledger cannot be written.
pub(crate) fn register(
    db: &Db,
    (key_id, public_key): (&str, &str),
    user_id: Uuid,
    now: Timestamp,
) -> Result<bool, Failure> {
    db.in_transaction(|db| {
        let (user, at) = (user_id.to_string(), now.millis());
        let made = db.query(
            "insert into ledger.device_keys (key_id, user_id, public_key, counter, used_at) values ($1, $2, $3, 0, $4)
             on conflict do nothing returning key_id",
            &[key_id.into(), user.clone().into(), public_key.into(), at.into()],
        )?;
        if made.is_empty() {
            return Ok(false);
        }
        db.query(
            "delete from ledger.device_keys where user_id = $1 and key_id <> $2 and key_id not in
                 (select key_id from ledger.device_keys where user_id = $1 order by used_at desc, key_id limit $3)",
            &[user.into(), key_id.into(), USER_KEYS_MAX.into()],
        )?;
        db.query(
            "delete from ledger.device_keys where key_id in
                 (select key_id from ledger.device_keys order by used_at desc, key_id limit 100 offset $1)",
            &[KEYS_MAX.into()],
        )?;
        Ok(true)
    })
}

/// The public key of a user's device.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn public_key(db: &Db, key_id: &str, user_id: Uuid) -> Result<Option<String>, Failure> {
    let sql = "select public_key from ledger.device_keys where key_id = $1 and user_id = $2";
    let row = db.query_one(sql, &[key_id.into(), user_id.to_string().into()])?;
    row.map(|row| row.text(0)).transpose()
}

/// Raises a key's counter, in one step. False where it is as high already: what was signed with it is old, or a copy.
///
/// # Errors
/// The ledger cannot be written.
pub(crate) fn raise_counter(
    db: &Db,
    (key_id, user_id): (&str, Uuid),
    counter: u32,
    now: Timestamp,
) -> Result<bool, Failure> {
    let raised = db.query(
        "update ledger.device_keys set counter = $3, used_at = $4
         where key_id = $1 and user_id = $2 and counter < $3 returning key_id",
        &[
            key_id.into(),
            user_id.to_string().into(),
            i64::from(counter).into(),
            now.millis().into(),
        ],
    )?;
    Ok(!raised.is_empty())
}
