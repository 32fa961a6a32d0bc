//! Users who keep asking, at moments and in ways that follow from a seed.

use std::time::Duration;

use tokio::time::sleep;

use super::caller::{User, chat, chat_stream};
use super::tokens;

/// A small generator whose whole run follows from its seed.
pub(crate) struct Dice(u64);

impl Dice {
    /// The seed of `TOLLGATE_TEST_SEED`, or one of this moment; printed either way.
    pub(crate) fn thrown() -> Self {
        let given = std::env::var("TOLLGATE_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed =
            given.unwrap_or_else(|| tokens::now() as u64 ^ u64::from(std::process::id()) << 32);
        eprintln!("TOLLGATE_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// The generator of this seed.
    pub(crate) const fn of(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common (the constant is that of splitmix64).
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Another generator, with a run of its own (not this one's own run a step later).
    pub(crate) fn another(&mut self) -> Self {
        Self::of(self.below(u64::MAX))
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Asks again and again, streams and whole answers in turn, some of them left early, until it is told to stop.
pub(crate) fn keeps_asking(user: User, mut dice: Dice) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let call = user.call(&if dice.below(2) == 0 {
                chat("under load")
            } else {
                chat_stream("under load")
            });
            match dice.below(4) {
                0 => {
                    if let Ok(mut open) = user.front.open(call).await {
                        open.take(dice.below(5) as usize).await;
                    }
                }
                _ => {
                    let _ = user.front.try_send(call).await;
                }
            }
            sleep(Duration::from_millis(1 + dice.below(10))).await;
        }
    })
}
