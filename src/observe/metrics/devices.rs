//! How many requests come from attested devices.

use super::Metrics;
use crate::auth::Device;

impl Device {
    /// Every kind, in the order in which they are told.
    pub(super) const ALL: [Self; 3] = [Self::Attested, Self::Unattested, Self::Unknown];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Attested => "attested",
            Self::Unattested => "unattested",
            Self::Unknown => "unknown",
        }
    }
}

impl Metrics {
    /// A user's request was looked at for what its device proves.
    pub fn device(&self, device: Device) {
        self.devices.add(&device, 1);
    }

    /// Users' requests since the start: from attested devices, and all.
    #[must_use]
    pub fn devices(&self) -> (u64, u64) {
        let all = self.devices.iter();
        let all = all.fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
        (self.devices.get(&Device::Attested), all)
    }
}
