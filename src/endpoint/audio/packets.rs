//! How long one packet of a codec is, by its own first bytes. Pure.

use super::bytes::be;
use super::flac;
use super::span::AudioSpan;
use super::vorbis::VorbisModes;

/// Samples a second, as Opus counts, whatever it is made of.
pub(super) const OPUS_RATE: u64 = 48_000;
/// The longest packet of Opus: 120 ms.
pub(super) const OPUS_SAMPLES_MAX: u64 = 5760;

/// What the packets of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Opus,
    Vorbis(VorbisModes),
    /// At so many samples a second.
    Flac(u64),
    /// Nothing to be heard.
    Silent,
}

impl Codec {
    /// How long a packet is that begins so.
    pub(super) fn span(&self, packet: &[u8]) -> AudioSpan {
        match self {
            Self::Opus => AudioSpan::of(opus_samples(packet), OPUS_RATE),
            Self::Vorbis(modes) => modes.span(packet),
            Self::Flac(rate) => flac::frame(packet, *rate).unwrap_or_default(),
            Self::Silent => AudioSpan::NONE,
        }
    }

    /// The longest that a packet can be; `None` where that is not known.
    pub(super) fn longest(&self) -> Option<AudioSpan> {
        match self {
            Self::Opus => Some(AudioSpan::of(OPUS_SAMPLES_MAX, OPUS_RATE)),
            Self::Vorbis(modes) => Some(modes.longest()),
            Self::Flac(_) => None,
            Self::Silent => Some(AudioSpan::NONE),
        }
    }

    /// How long so many samples are, as the container counts them; `None` where it does not.
    pub(super) fn of_samples(&self, samples: u64) -> Option<AudioSpan> {
        match self {
            Self::Opus => Some(AudioSpan::of(samples, OPUS_RATE)),
            Self::Vorbis(modes) => Some(AudioSpan::of(samples, modes.rate)),
            Self::Flac(rate) => Some(AudioSpan::of(samples, *rate)),
            Self::Silent => None,
        }
    }
}

/// RFC 6716, §3.1 and §3.2.
fn opus_samples(packet: &[u8]) -> u64 {
    let Some(&kind) = packet.first() else {
        return 0;
    };
    let frames_of_mode = match kind >> 3 {
        0..=11 => [480, 960, 1920, 2880],
        12..=15 => [480, 960, 480, 960],
        _ => [120, 240, 480, 960],
    };
    let place = usize::from((kind >> 3) & 3);
    let frame: u64 = frames_of_mode.get(place).copied().unwrap_or(0);
    let frames = match kind & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => be(packet, 1, 1).unwrap_or(1) & 0x3F,
    };
    frame.saturating_mul(frames).min(OPUS_SAMPLES_MAX)
}
