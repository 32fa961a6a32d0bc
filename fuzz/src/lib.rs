//! What must hold whatever comes in, one module a kind of input. Each has `check(&[u8])`, which panics when it does not.
//!
//! The engine (`fuzz_targets/`) looks for inputs that break it; `tests/it/fuzz_corpora.rs` tries every kept one on each
//! `cargo test`, without an engine. What is expected is worked out anew here, by readers of its own (`json`), never by
//! the code that is tried.

pub mod audio;
pub mod config;
pub mod http1;
pub mod image_size;
pub mod json;
pub mod multipart;
pub mod order;
pub mod responses;
pub mod stream;
pub mod token;
pub mod usage;
pub mod webhooks;

/// Settings from variables alone.
///
/// # Panics
/// They are refused.
#[must_use]
pub fn settings(variables: &[(&str, &str)]) -> tollgate::config::Config {
    let nowhere = std::path::PathBuf::from("/nonexistent");
    let env = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let sources = tollgate::config::Sources {
        file: None,
        env,
        directory: nowhere,
    };
    tollgate::config::Config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Numbers that look random and are the same for the same input (`SplitMix64`).
pub struct Dice(u64);

impl Dice {
    /// Dice for an input.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(data.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
