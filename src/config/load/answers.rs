//! `[answers]`.

use std::time::Duration;

use crate::config::findings::{Invalid, Problem};
use crate::config::reader::Section;
use crate::config::units::show_size;
use crate::config::values::{DAY, millis_to};

/// One user may have so large a part of `bytes_max`.
const USERS_PART: usize = 4;

/// `[answers]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// How long an answer is kept after its end, and read on while nobody follows it.
    pub keep: Duration,
    /// The longest answer that is kept.
    pub answer_bytes_max: usize,
    /// What all of them take at most.
    pub bytes_max: usize,
}

impl AnswerLimits {
    /// What those of one user take at most.
    #[must_use]
    pub const fn user_bytes_max(&self) -> usize {
        self.bytes_max.div_euclid(USERS_PART)
    }
}

/// Reads the section.
pub(super) fn answers(section: &Section<'_>) -> Result<AnswerLimits, Invalid> {
    let keep = section.duration("keep", millis_to(0, DAY));
    let answer_bytes_max = section.size("answer_bytes_max", 0..=(1 << 30));
    let bytes_max = section.size("bytes_max", 0..=(64 << 30));
    section.finish();
    let limits = AnswerLimits {
        keep: keep?,
        answer_bytes_max: answer_bytes_max?,
        bytes_max: bytes_max?,
    };
    // With 0 nothing is kept, whatever else is said.
    let share = limits.user_bytes_max();
    if limits.bytes_max > 0 && limits.answer_bytes_max > share {
        let problem = format!(
            "is more than a quarter of bytes_max, which is what one user may have ({})",
            show_size(share)
        );
        let fix = format!(
            "raise bytes_max to {}, or lower this",
            show_size(limits.answer_bytes_max.saturating_mul(USERS_PART))
        );
        return Err(section.wrong("answer_bytes_max", Problem::new(problem, fix)));
    }
    Ok(limits)
}
