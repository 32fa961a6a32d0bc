//! What a device gets for its proof, and sends with each request: who it is for, until when, and our mark on it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ledger::Ledger;

/// Carries it.
pub(super) const DEVICE_HEADER: HeaderName = HeaderName::from_static("x-tollgate-device");
/// How long it is good.
pub(crate) const DEVICE_TOKEN_TIMEOUT: Duration = Duration::from_hours(1);
/// Its length, in base64url: a user, a time, a mark.
const TOKEN_BYTES: usize = 16 + 8 + 32;

/// A token for a user's device.
pub(super) fn issue(ledger: &Ledger, user: Uuid, now: Timestamp) -> String {
    let until = now.plus(DEVICE_TOKEN_TIMEOUT).secs().to_be_bytes();
    let said = [&user.as_bytes()[..], &until].concat();
    let mark = ledger.mark_of(&said);
    URL_SAFE_NO_PAD.encode([&said[..], mark.as_ref()].concat())
}

/// Whether a token is ours, for this user, and has not run out.
pub(super) fn is_good(ledger: &Ledger, token: &str, user: Uuid, now: Timestamp) -> bool {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let bytes = bytes.filter(|bytes| bytes.len() == TOKEN_BYTES);
    let Some((said, mark)) = bytes.as_ref().and_then(|bytes| bytes.split_at_checked(24)) else {
        return false;
    };
    let until = said
        .last_chunk::<8>()
        .map(|until| i64::from_be_bytes(*until));
    ledger.has_marked(said, mark)
        && said.starts_with(user.as_bytes())
        && until.is_some_and(|until| now.secs() < until)
}
