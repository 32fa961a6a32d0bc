//! `[telemetry]`.

use crate::config::findings::Invalid;
use crate::config::reader::Section;
use crate::config::urls;

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where traces and metrics are sent by OTLP over HTTP, without `/v1/traces`; `None` for nowhere.
    pub otlp_endpoint: Option<String>,
}

/// Reads the section.
pub(super) fn telemetry(section: &Section<'_>) -> Result<TelemetryConfig, Invalid> {
    const EXAMPLE: &str = "http://127.0.0.1:4318";
    let endpoint = section.maybe("otlp_endpoint", EXAMPLE, |text| {
        urls::address(text, EXAMPLE)
    });
    section.finish();
    let endpoint = endpoint?;
    if endpoint
        .as_ref()
        .is_some_and(|address| !address.is_https && !address.is_loopback())
    {
        let key = section.path_of("otlp_endpoint");
        section.findings.warn(format!(
            "{key} is plain http: what is traced crosses the network readable"
        ));
    }
    Ok(TelemetryConfig {
        otlp_endpoint: endpoint.map(|address| address.text),
    })
}
