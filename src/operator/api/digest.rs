//! SHA-256 of a token or a cookie. Nothing else is kept of either.

use aws_lc_rs::digest as sha;

/// SHA-256 of a token or a cookie.
pub(super) type Digest = [u8; 32];

/// The digest of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    sha::digest(&sha::SHA256, bytes)
        .as_ref()
        .try_into()
        .unwrap_or_default()
}
