//! Says at start, after a change of the settings and then once a day which models of the plans are shut down soon.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;

/// How often it is looked whether a day is over or the settings have changed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Writes the log line, for as long as it is polled.
pub async fn tell_of_model_ends(app: Arc<App>) {
    let mut told = String::new();
    loop {
        // Days left stand in the line, so it is another one on the next day.
        let ends = app.config().model_ends(app.clock.now());
        let lines: Vec<String> = ends.iter().map(ToString::to_string).collect();
        let line = lines.join("; ");
        if line != told && !line.is_empty() {
            tracing::warn!("models of your plans are shut down soon: {line}");
        }
        told = line;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
