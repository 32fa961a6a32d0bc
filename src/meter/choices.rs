//! How far the choices of one answer are. Pure.

use super::chat::Finish;

/// What is known of the choices so far: one bit a choice, by its index.
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of the choices"
)]
pub(super) struct Progress {
    pub(super) begun: u128,
    ended: u128,
    pub(super) with_text: u128,
    /// Those that the last object had text of.
    pub(super) with_new_text: u128,
    pub(super) cap_reached: bool,
    pub(super) filtered: bool,
    /// Reasoning was shown in words.
    pub(super) shows_reasoning: bool,
    /// Reasoning was shown sealed, or as a summary.
    pub(super) hides_reasoning: bool,
}

impl Progress {
    /// A choice was read.
    pub(super) fn read(&mut self, index: u64, end: Option<Finish>, has_text: bool) {
        let bit = bit_of(index);
        self.begun |= bit;
        if has_text {
            self.with_text |= bit;
            self.with_new_text |= bit;
        }
        match end {
            Some(end) => {
                self.ended |= bit;
                self.cap_reached |= end == Finish::Cap;
                self.filtered |= end == Finish::Filter;
            }
            // It goes on, whatever was said before.
            None if has_text => self.ended &= !bit,
            None => {}
        }
    }

    /// Every choice that began has ended, and there is one.
    pub(super) const fn is_finished(&self) -> bool {
        self.begun != 0 && self.begun == self.ended
    }
}

/// The bit of a choice; none where its index is beyond all plans.
pub(super) fn bit_of(index: u64) -> u128 {
    let index = u32::try_from(index).ok();
    index
        .and_then(|index| 1_u128.checked_shl(index))
        .unwrap_or(0)
}
