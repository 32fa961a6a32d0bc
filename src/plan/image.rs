//! How large and how good the images of a plan may be. Pure.

use std::fmt;

/// The longest side of an image that can be asked for, in pixels.
const SIDE_MAX: u32 = 16_384;

/// Width and height in pixels. What a size costs goes by its area, so that is what a plan bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl ImageSize {
    /// Reads `1024x1536`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (width, height) = text.split_once('x')?;
        let side = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            let side = text.parse().ok().filter(|_| is_plain)?;
            (side <= SIDE_MAX).then_some(side)
        };
        Some(Self {
            width: side(width)?,
            height: side(height)?,
        })
    }

    /// Its pixels.
    #[must_use]
    pub fn area(self) -> u64 {
        u64::from(self.width).saturating_mul(u64::from(self.height))
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// How good an image is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageQuality {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `xhigh`
    Xhigh,
    /// `max`
    Max,
}

impl ImageQuality {
    /// Every quality, the least first.
    pub const ALL: [Self; 5] = [Self::Low, Self::Medium, Self::High, Self::Xhigh, Self::Max];

    /// As in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// Reads a request's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|quality| quality.as_str() == word)
    }
}

/// What images a plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageCaps {
    /// The most that one request may make.
    pub most: u32,
    /// The largest of them, by area.
    pub size: ImageSize,
    /// The best of them.
    pub quality: ImageQuality,
}

impl Default for ImageCaps {
    fn default() -> Self {
        Self {
            most: 1,
            size: ImageSize {
                width: 1024,
                height: 1024,
            },
            quality: ImageQuality::Medium,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_sides_in_pixels() {
        let size = ImageSize::parse("1024x1536").unwrap();
        assert_eq!(
            (size.area(), size.to_string()),
            (1_572_864, "1024x1536".to_owned())
        );
        for wrong in [
            "",
            "x",
            "auto",
            "1024",
            "1024x",
            "x1024",
            "0x1024",
            "01024x1",
            "1024X1024",
            "1024x1024x1",
            "-1x1",
            "+1x1",
            " 1x1",
            "16385x1",
            "99999999999x1",
            "1.5x2",
        ] {
            assert_eq!(ImageSize::parse(wrong), None, "{wrong}");
        }
        assert_eq!(ImageSize::parse("16384x16384").unwrap().area(), 1 << 28);
    }

    #[test]
    fn qualities_are_in_order() {
        assert!(ImageQuality::ALL.is_sorted());
        for quality in ImageQuality::ALL {
            assert_eq!(ImageQuality::parse(quality.as_str()), Some(quality));
        }
        assert_eq!(ImageQuality::parse("auto"), None);
    }
}
