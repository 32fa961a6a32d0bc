//! A product whose clock a test moves, by libfaketime: it reads the offset from a file in its working directory.

use super::door::Door;
use super::settings::Settings;
use super::tools::Tool;

/// Settings of a product whose clock can be moved; say how far it is ahead before it starts.
pub(crate) fn movable(settings: Settings) -> Settings {
    settings
        .env("LD_PRELOAD", Tool::Faketime.expect().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", "clock")
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// The product's clock is so many seconds ahead of ours from now on.
pub(crate) fn ahead(door: &Door, seconds: i64) {
    // Renamed into place: half a file is another time.
    door.write_file("clock.new", &format!("{seconds:+}"));
    std::fs::rename(
        door.directory().join("clock.new"),
        door.directory().join("clock"),
    )
    .unwrap();
    door.clock_is_ahead(seconds);
}
